// Sizes of the structs, by which Python checks that it lays them out as the compiler does.
EXPORT int64_t size_of(int struct_number) {
  const int64_t sizes[] = {sizeof(NormForward), sizeof(NormBackward), sizeof(Attention), sizeof(Activation),
                           sizeof(Update)};
  return struct_number < 0 || struct_number > 4 ? 0 : sizes[struct_number];
}

#!/bin/bash
# The scripts beside this one on one Linux machine, as root and without Slurm: two nodes are two network namespaces
# joined by a virtual cable, with host names of their own, and srun and scontrol are stand-ins. A few seconds of MNIST:
#   ./rehearse.sh two-nodes.sbatch mnist --steps 20 --device cpu --runs-dir /tmp/rehearsal
#   PREEMPT_AFTER=30 ./rehearse.sh preempted.sbatch mnist --steps 1000 --device cpu --runs-dir /tmp/rehearsal
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
stand_ins=$(mktemp -d)
names=(ditkit-node1 ditkit-node2)

clean_up() {
    for name in "${names[@]}"; do
        ip netns del "$name" 2>/dev/null || true
        rm -rf "/etc/netns/$name"
    done
    rm -rf "$stand_ins"
}
trap clean_up EXIT

for number in 1 2; do
    name=${names[number - 1]}
    ip netns add "$name"
    mkdir -p "/etc/netns/$name"
    printf '127.0.0.1 localhost\n10.77.0.1 ditkit-node1\n10.77.0.2 ditkit-node2\n' >"/etc/netns/$name/hosts"
done
ip link add ditkit-a netns ditkit-node1 type veth peer name ditkit-b netns ditkit-node2
ip -n ditkit-node1 addr add 10.77.0.1/24 dev ditkit-a
ip -n ditkit-node2 addr add 10.77.0.2/24 dev ditkit-b
for pair in ditkit-node1:ditkit-a ditkit-node2:ditkit-b; do
    ip -n "${pair%:*}" link set lo up
    ip -n "${pair%:*}" link set "${pair#*:}" up
done

cat >"$stand_ins/srun" <<'S'
#!/bin/bash
# Runs the command on both nodes, hands on a signal, and fails when one of them does.
children=()
trap 'kill -USR1 "${children[@]}"' USR1
for name in ditkit-node1 ditkit-node2; do
    ip netns exec "$name" unshare --uts bash -c 'hostname "$1"; shift; exec "$@"' - "$name" "$@" &
    children+=($!)
done
code=0
for child in "${children[@]}"; do
    while kill -0 "$child" 2>/dev/null; do wait "$child"; done
    wait "$child" || code=1
done
exit $code
S
cat >"$stand_ins/scontrol" <<'S'
#!/bin/bash
case $1 in
show) printf 'ditkit-node1\nditkit-node2\n' ;;
requeue) echo "scontrol: job $2 would be queued up again" ;;
esac
S
chmod +x "$stand_ins"/*

export PATH="$stand_ins:$PATH" SLURM_JOB_ID=$$ SLURM_NNODES=2 SLURM_JOB_NODELIST=both
export PROCESSES_PER_NODE=${PROCESSES_PER_NODE:-1}
script=$1
shift
bash "$here/$script" "$@" &
job=$!
if [ -n "${PREEMPT_AFTER:-}" ]; then
    sleep "$PREEMPT_AFTER"
    kill -USR1 "$job"
fi
wait "$job"

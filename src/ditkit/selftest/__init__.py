"""Whether this machine trains, saves, resumes and draws as it should: real work, compared with what is right."""

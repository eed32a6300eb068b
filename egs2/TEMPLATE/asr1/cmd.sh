# What to put before a command, e.g. "srun --gres=gpu:1": nothing on this machine.
train_cmd=
decode_cmd=

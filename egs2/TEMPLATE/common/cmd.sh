# How commands are started; nothing: on this machine, as they are.
# What to put before a command, e.g. "srun" and "srun --gres=gpu:1":
train_cmd=
decode_cmd=
# What espnet2.bin.launch submits trainings with, e.g. "../../TEMPLATE/asr1/utils/slurm.pl --partition=gpu":
cuda_cmd=

# General
stage=1              # first stage to run
stop_stage=7         # last stage to run
nj=2                 # processes at a time; on GPUs of this machine, trainings are one at a time
ngpu=0               # GPUs of a training, on each node; decoding takes one of them
num_nodes=1          # nodes of a training (by cuda_cmd of cmd.sh)
python=espnet-rand   # python, or a launcher that behaves like it
datadir=data         # data directories, tokens and statistics
expdir=exp           # models and results
systems=             # the list: see below

# Data
local_data_opts=     # options for local/data.sh
train_set=train
valid_set=dev
test_sets=test       # one or more

# Decoding, scoring
inference_nj=1       # parts that a test set is decoded in
inference_model=valid.loss.ave.pth
inference_args=      # more options for decoding, e.g. "--ngpu 0"
score_cleaner=none   # text cleaner for reference and hypothesis, e.g. whisper_en; or one for each test set
table=RESULTS        # name of the table of results in expdir, without .md


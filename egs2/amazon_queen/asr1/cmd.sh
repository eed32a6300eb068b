. ../../TEMPLATE/asr1/cmd.sh

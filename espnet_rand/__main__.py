"""`python -m espnet_rand` is `espnet-rand`."""

from espnet_rand.bin.launch import main

main()

"""Commands of the program `fcos`, a file each; the programs under tools/ start them too."""

"""The promises of Holdfast, one file each."""

"""How fast the library is, next to its peers: `make bench`. See README.md in this folder.

What runs in an environment of a peer (`worker`, `loop`, `peers`) imports the library only where it
has to; what steers it (`__main__`, `environments`, `material`, `rounds`, `report`) runs in ours.
"""

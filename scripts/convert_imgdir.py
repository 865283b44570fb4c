import argparse, json, glob, os
import lmdb, msgpack, msgpack_numpy, numpy as np

p = argparse.ArgumentParser()
for n, d in (
    ("img_dir", ""),
    ("output", ""),
    ("nproc", 8),
    ("conf_th", 0.2),
    ("max_bb", 100),
    ("min_bb", 10),
    ("num_bb", 100),
):
    p.add_argument("--" + n, type=type(d), default=d)
a = p.parse_args()
name = f"th{a.conf_th}_max{a.max_bb}_min{a.min_bb}"
os.makedirs(f"{a.output}/feat_{name}")
env = lmdb.open(f"{a.output}/feat_{name}", map_size=1 << 34)
nbb = {}
with env.begin(write=True) as t:
    for f in sorted(glob.glob(a.img_dir + "/*.npz")):
        r = np.load(f)
        k = os.path.basename(f)
        n = min(max(int((r["conf"] > a.conf_th).sum()), a.min_bb), a.max_bb)
        nbb[k] = n
        t.put(k.encode(), msgpack.dumps({x: r[x][:n] for x in r.files}, default=msgpack_numpy.encode))
env.close()
json.dump(nbb, open(f"{a.output}/nbb_{name}.json", "w"))

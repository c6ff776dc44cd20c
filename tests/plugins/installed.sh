#!/usr/bin/env bash
# Plugins as strangers install them: wheels of the packages in plugins/, and of one that `vaekit plugins new` writes for each role,
# beside an installed vaekit. Run it in a fresh environment where vaekit is installed; nothing is imported from the source tree.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH VAEKIT_PLUGINS
export VAEKIT_SOURCE="$root"
cd "$work"
python -c 'import os, vaekit; assert not vaekit.__file__.startswith(os.environ["VAEKIT_SOURCE"] + "/"), vaekit.__file__'

for role in encoder decoder posterior prior likelihood loss dataset logger exporter picture; do
  vaekit plugins new "my_$role" --role "$role" --out "written/$role" > /dev/null
done
mkdir tests
for package in "$root"/plugins/* written/*; do
  cp -r "$package" sources-"$(basename "$package")"
  python -m pip wheel -q --no-deps -w wheels "./sources-$(basename "$package")"
  cp -r "$package/tests" "tests/$(basename "$package")"
  rm -r sources-"$(basename "$package")"
done
rm -r written
python -m pip install -q wheels/*.whl pytest
vaekit plugins
[ "$(vaekit plugins | grep -c ' ready ')" = 18 ]
python -m pytest -q -p no:cacheprovider tests

# train → interrupted → resume → evaluate → sample → export → reload elsewhere
python - <<'PYTHON'
import vaekit
from vaekit.training.progress import Silent


class Interrupt(Silent):
    def epoch(self, record):
        raise KeyboardInterrupt


options = {"encoder.channels": (8, 16), "encoder.depth": 1, "decoder.channels": (16, 8), "decoder.depth": 1}
try:
    vaekit.train(
        encoder="convnext", loss="mmd", weight=10, dataset="shapes", num_images=1500, size=16, latent_dim=4, epochs=2,
        pictures="none", binarize="threshold", out="run", reporter=Interrupt(), **options,
    )
except KeyboardInterrupt:
    pass
PYTHON
vaekit resume run
vaekit train --model rhvae --num-centroids 10 --epochs 1 --pictures none --out hamiltonian
vaekit evaluate hamiltonian --samples 10
vaekit evaluate run --samples 10
vaekit sample run --num 4
vaekit export run --onnx
test -s run/decoder.onnx
mkdir elsewhere
mv run elsewhere/moved
(
  cd elsewhere
  python -c 'import vaekit; print(vaekit.load("moved").sample(2).shape); print([m["epoch"] for m in vaekit.Run("moved").metrics()])'
  python -m pip uninstall -q -y vaekit-convnext
  if vaekit sample moved 2> error; then exit 1; fi
  grep 'pip install vaekit-convnext==0.1.0' error
)
echo "installed plugins: all well"

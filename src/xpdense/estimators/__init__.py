"""scikit-learn estimators: its MLPClassifier and MLPRegressor, by this package's networks, on any backend."""

from ..errors import require

for _module in ("sklearn", "scipy", "narwhals"):
    require(_module, "sklearn", "an estimator")

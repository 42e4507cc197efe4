"""scikit-learn estimators: its MLPClassifier and MLPRegressor, by this package's networks, on any backend."""

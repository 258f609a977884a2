// Numbers and facts as people read them.

const NAMES = {
  "grad-cam": "Grad-CAM",
  "grad-cam++": "Grad-CAM++",
  "xgrad-cam": "XGrad-CAM",
  "layer-cam": "LayerCAM",
  "hires-cam": "HiResCAM",
  "eigen-cam": "Eigen-CAM",
  cam: "CAM",
  "guided-backprop": "Guided backpropagation",
  deconvnet: "Deconvnet",
  "guided-grad-cam": "Guided Grad-CAM",
};

export function methodName(method) {
  return NAMES[method] ?? method;
}

export function precisionName(precision) {
  return precision.toUpperCase();
}

// A share from 0 to 1; nothing is called 0 or 100 % that is not.
export function percent(share) {
  if (share > 0 && share < 0.0005) return "<\u00a00.1\u00a0%";
  if (share < 1 && share > 0.9995) return ">\u00a099.9\u00a0%";
  return `${(100 * share).toFixed(1)}\u00a0%`;
}

export function points(difference) {
  const value = (100 * difference).toFixed(1);
  if (Number(value) === 0) return "±0.0";
  return `${difference > 0 ? "+" : "−"}${value.replace("-", "")}`;
}

export function milliseconds(value) {
  return `${value < 10 ? value.toFixed(1) : Math.round(value)}\u00a0ms`;
}

export function count(number) {
  return number.toLocaleString("en");
}

// What a map says that cannot be seen on it, or null.
export function silence(explanation) {
  if (!explanation) return "is not explained here";
  if (!explanation.isExplained) return "has no map: the bundle has no graph that explains at this precision";
  if (!explanation.hasEvidence && explanation.share === 0) return "is predicted at no pixel";
  if (!explanation.hasEvidence) return "has no positive evidence in this photo";
  if (explanation.isEven) return "has the same evidence everywhere";
  return null;
}

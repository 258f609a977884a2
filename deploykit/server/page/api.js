// Requests to the server: the key, what is retried, and errors as the server words them.
//
// A server that is full (503) or cannot be reached is asked again a few times, no sooner than it says; everything else is the
// caller's to show. In: a path, a query and a body. Out: the JSON answer, or an ApiError.

const KEY = "deploykit.key";
const PAUSES_S = [1, 2, 4, 8];
const LONGEST_PAUSE_S = 30;

class ApiError extends Error {
  // status 0: no answer came
  constructor(message, hint, status) {
    super(message);
    this.hint = hint;
    this.status = status;
  }
}

let askKey = async () => null;
let tellWaiting = () => {};

// Say how a key is asked for (a promise of the key, or null) and who hears "waiting, because ..." (or null when it is over).
export function onKeyNeeded(ask) {
  askKey = ask;
}

export function onWaiting(tell) {
  tellWaiting = tell;
}

export function hasKey() {
  return readKey() !== null;
}

export async function getJson(path, options) {
  return (await request(path, options)).json();
}

export async function getBlob(path, options) {
  return (await request(path, options)).blob();
}

// Ask about a photo: the file goes as it is, so that the server sees the bytes that a service would send.
export function askAboutPhoto(model, verb, photo, query, signal) {
  const body = new FormData();
  body.append("image", photo.file, photo.name);
  return getJson(`${modelPath(model)}:${verb}?${new URLSearchParams(query)}`, { method: "POST", body, signal });
}

export function modelPath(model) {
  return `/v1/models/${encodeURIComponent(model)}`;
}

async function request(path, options = {}) {
  let isTold = false;
  try {
    for (let attempt = 0; ; attempt += 1) {
      const { response, failure } = await once(path, options);
      if (response?.ok) return response;
      if (response?.status === 401 && (await renewKey())) continue;
      const error = failure ?? (await errorOf(response));
      const mayPass = error.status === 0 || error.status === 503;
      if (!mayPass || attempt >= PAUSES_S.length) throw error;
      const pause = pauseOf(response, attempt);
      isTold = true;
      tellWaiting(`${error.status === 0 ? "The server does not answer" : "The server is busy"}. Trying again in ${pause} s.`);
      await sleep(pause * 1000, options.signal);
    }
  } finally {
    if (isTold) tellWaiting(null);
  }
}

async function once(path, options) {
  const key = readKey();
  const headers = key === null ? {} : { authorization: `Bearer ${key}` };
  try {
    return { response: await fetch(path, { ...options, headers, credentials: "omit" }) };
  } catch (cause) {
    if (options.signal?.aborted) throw cause;
    const hint = navigator.onLine ? "Is deploykit serve still running?" : "This device is offline.";
    return { failure: new ApiError("No answer from the server.", hint, 0) };
  }
}

async function errorOf(response) {
  try {
    const { error, hint } = await response.json();
    if (typeof error === "string") return new ApiError(error, hint ?? null, response.status);
  } catch {
    // not JSON: a proxy in between, most likely
  }
  return new ApiError(`The server answers ${response.status} ${response.statusText}`.trim() + ".", null, response.status);
}

function pauseOf(response, attempt) {
  const asked = Number(response?.headers.get("retry-after"));
  return Math.min(asked > 0 ? Math.ceil(asked) : PAUSES_S[attempt], LONGEST_PAUSE_S);
}

function sleep(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}

// Many requests may find out at once that a key is needed: the reader is asked once.
let asking = null;
let sessionKey = null;

async function renewKey() {
  asking ??= askKey(readKey() !== null).finally(() => (asking = null));
  const key = await asking;
  if (key === null) return false;
  sessionKey = key;
  try {
    sessionStorage.setItem(KEY, key);
  } catch {
    // kept in sessionKey alone
  }
  return true;
}

function readKey() {
  try {
    return sessionKey ?? sessionStorage.getItem(KEY);
  } catch {
    return sessionKey;
  }
}

// The colours of maps, the same 256 as deploykit/runtime/colours.py computes in Oklab: a test holds the two together.

const HEX =
  "27006e28006f2a006f2b00702c00712e00722f00733000743200743300753500763600773800773900783a00793c00793d007a3f007b40007b42007c" +
  "43007d44007d46007e47007e49007f4a007f4c00804d00804f00815000815200815300825500825600835800835900835b00845c00845e00845f0084" +
  "6100856200856400856500856700856800866a00866b01866d01866e02866f03857104857204857405857506857707857807857a08847b09847c0a84" +
  "7e0b847f0c84810c83820d83840e83850f83860f828810828911828b11828c12818e13818f138190148092158093158095167f96177f97177f99187e" +
  "9a197e9c197d9d1a7d9e1b7da01b7ca11c7ca31c7ba41d7ba51e7aa71e7aa81f7aa92079ab2179ac2178ad2278af2377b02376b12476b32575b42575" +
  "b52674b72774b82873b92873ba2972bc2a71bd2b71be2b70c02c70c12d6fc22e6ec32f6ec52f6dc6306cc7316cc8326bc9336acb346acc3569cd3568" +
  "ce3667cf3767d03866d23965d33a64d43b64d53c63d63d62d73e61d83f61d93f60db405fdc415edd425dde435cdf445be0455be1465ae24759e34858" +
  "e44a57e54b56e64c55e74d54e84e53e94f52ea5051eb5150ec524fed534eed544dee554cef574bf0584af15949f25a48f35b47f35c45f45e44f55f43" +
  "f66042f76141f7623ff8643ef9653dfa663cfa673afb6839fc6a37fd6b36fd6c35fe6d33ff6f31ff7030ff7231ff7331ff7531ff7731ff7831ff7a31" +
  "ff7c32ff7d32ff7f32ff8133ff8233ff8433ff8534ff8734ff8935ff8a35ff8c36ff8d36ff8f37ff9038ff9238ff9339ff953aff973bff983bff9a3c" +
  "ff9b3dff9d3eff9e3fffa03fffa140ffa341ffa442ffa643ffa744ffa945ffaa46ffab47ffad48ffae49ffb04affb14bffb34cffb44dffb64effb74f" +
  "ffb950ffba51ffbc52ffbd53ffbe54ffc055ffc157ffc358ffc459ffc65affc75bffc95cffca5dffcb5effcd5fffce60ffd061ffd162ffd363ffd464" +
  "ffd565ffd765ffd866ffda67ffdb68ffdc69ffde69ffdf6affe16affe26bffe36bffe56bffe66bffe76bffe96bffea6b";

// Red, green and blue of each level, darkest first: Uint8Array [256 * 3].
export const COLOURS = Uint8Array.from(HEX.match(/../g), (byte) => parseInt(byte, 16));

// Draw the scale from left to right over a whole canvas.
export function drawScale(canvas) {
  canvas.width = COLOURS.length / 3;
  canvas.height = 1;
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, 1);
  for (let level = 0; level < canvas.width; level += 1) {
    image.data.set(COLOURS.subarray(3 * level, 3 * level + 3), 4 * level);
    image.data[4 * level + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

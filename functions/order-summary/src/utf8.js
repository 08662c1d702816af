// QuickJS has no TextEncoder and TextDecoder. These are the two calls of them that events need; esbuild's --inject
// puts them wherever the names are used.

export class TextEncoder {
  encode(text) {
    return Uint8Array.from(unescape(encodeURIComponent(text)), (char) => char.charCodeAt(0));
  }
}

export class TextDecoder {
  // Throws a URIError on bytes that are not UTF-8.
  decode(bytes) {
    let escaped = "";
    for (const byte of bytes) escaped += "%" + byte.toString(16).padStart(2, "0");
    return decodeURIComponent(escaped);
  }
}

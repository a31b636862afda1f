/** Where the relay at the frontend's site answers, on its gateway's address on the segment. */
export const RELAY_PORT = 3169

/**
 * The lines of a stream of UTF-8, without their ends. Bytes that are not UTF-8 become U+FFFD.
 *
 * @param options.unended whether to give what stands behind the last line end, too, if anything does
 */
export async function* linesOf(
  stream: AsyncIterable<Uint8Array | string>,
  options: { unended: boolean },
): AsyncGenerator<string, void, undefined> {
  const decoder = new TextDecoder();
  let rest = '';
  for await (const piece of stream) {
    const lines = (rest + (typeof piece === 'string' ? piece : decoder.decode(piece, { stream: true }))).split('\n');
    rest = lines.pop() ?? '';
    yield* lines;
  }
  rest += decoder.decode();
  if (options.unended && rest !== '') yield rest;
}

/** What a caller that wants to be told of progress sends as `Accept`. @see https://github.com/ndjson/ndjson-spec */
export const linesType = 'application/x-ndjson';

/**
 * A long call as JSON objects, one a line: `{"progress":{"done":…,"total":…}}` as it goes on, then the answer with its status, which
 * cannot be that of the response any more.
 *
 * @param run the call; told how it reports
 * @param failed the answer when it throws
 * @returns also when the call has ended, whether or not anybody reads the lines
 */
export function reportLines(
  run: (report: (done: number, total: number) => void) => Promise<object>,
  failed: (error: unknown) => { status: number; message: string },
): { lines: AsyncGenerator<string, void, undefined>; ended: Promise<void> } {
  const queue: object[] = [];
  let change = Promise.withResolvers<void>();
  const put = (line: object): void => {
    queue.push(line);
    change.resolve();
  };
  let over = false;
  const end = (answer: object): void => {
    over = true;
    put(answer);
  };
  async function* lines(): AsyncGenerator<string, void, undefined> {
    for (;;) {
      for (let line = queue.shift(); line !== undefined; line = queue.shift()) yield `${JSON.stringify(line)}\n`;
      if (over) return;
      await change.promise;
      change = Promise.withResolvers<void>();
    }
  }
  // It goes on when the caller goes away: half a grant helps nobody.
  const ended = run((done, total) => put({ progress: { done, total } })).then(
    (answer) => end({ status: 200, ...answer }),
    (error: unknown) => end({ success: false, ...failed(error) }),
  );
  return { lines: lines(), ended };
}

/**
 * Does two things at the same time. When one of them fails, the other is ended, what it may have made is disposed of, and the error
 * of the first is thrown.
 *
 * @param signal ends both with its reason
 * @param first given a signal to heed, as `second` is
 */
export async function together<First extends AsyncDisposable, Second extends AsyncDisposable>(
  signal: AbortSignal,
  first: (signal: AbortSignal) => Promise<First>,
  second: (signal: AbortSignal) => Promise<Second>,
): Promise<[First, Second]> {
  const halt = new AbortController();
  const joint = AbortSignal.any([signal, halt.signal]);
  const guarded = async <Result>(task: (signal: AbortSignal) => Promise<Result>): Promise<Result> => {
    try {
      return await task(joint);
    } catch (error) {
      // Only the first reason of an abort counts.
      halt.abort(error);
      throw error;
    }
  };
  const results = await Promise.allSettled([guarded(first), guarded(second)]);
  const [one, other] = results;
  if (one.status === 'fulfilled' && other.status === 'fulfilled') return [one.value, other.value];
  await using made = new AsyncDisposableStack();
  for (const result of results) if (result.status === 'fulfilled') made.use(result.value);
  signal.throwIfAborted();
  throw halt.signal.reason;
}

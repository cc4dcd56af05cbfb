/**
 * Does two things at the same time. When one of them fails, the other is ended, and the error of the first is thrown once both are over:
 * whoever keeps what they made can then dispose of it, and nothing fails under the one that was still at work.
 *
 * @param signal ends both with its reason
 * @param first given a signal to heed, as `second` is
 */
export async function together<First, Second>(
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
  const [one, other] = await Promise.allSettled([guarded(first), guarded(second)]);
  if (one.status === 'fulfilled' && other.status === 'fulfilled') return [one.value, other.value];
  signal.throwIfAborted();
  throw halt.signal.reason;
}

/** Runs tasks of one key one after the other, in the order they came; tasks of different keys do not wait for each other. */
export class Serial {
  readonly #last = new Map<string, Promise<unknown>>();

  /** Runs `task` when all earlier ones of `key` have ended, however they did. */
  async run<Result>(key: string, task: () => Promise<Result>): Promise<Result> {
    const before = this.#last.get(key) ?? Promise.resolve();
    const mine = before.then(task, task);
    this.#last.set(key, mine);
    try {
      return await mine;
    } finally {
      if (this.#last.get(key) === mine) this.#last.delete(key);
    }
  }
}

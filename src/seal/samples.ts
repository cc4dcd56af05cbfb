/** Whether frames are worth compressing, told by samples of them. */
import { freeWhole } from './bytes.ts';
import { compressFrame } from './compressor.ts';

/** Share of its size that a frame's sample must come below for the frame to be compressed; in haste, the samples of the last frames. */
const worthwhile = { anyway: 0.97, inHaste: 0.5 };

/** A frame whose sample comes below this share speaks for so many after it, too: a sample takes a 25th of a frame's time. */
const obvious = { below: 0.8, followers: 7 };

/** In haste one of so many frames is sampled, and so many samples are looked back at. */
const hasty = { every: 8, samples: 4 };

/**
 * Bytes that leave while a sample is compressed: where it is more, compressing a frame takes longer than sending what it saves. That is 120
 * MB/s where a sample takes 0.1 ms, which a network of 1 Gbit/s does not reach, and less on a machine that takes longer.
 */
const haste = 12_000;

/** So many pieces of so many bytes each are taken of a frame as its sample. */
const [sampleCount, samplePiece] = [8, 2048];
const sample = Buffer.allocUnsafeSlow(sampleCount * samplePiece);

/** Judges the frames of one stream. */
export class Samples {
  readonly #stopwatch: () => number;
  /** Frames that are taken to be as the last one that was sampled. */
  #followers = 0;
  #frames = 0;
  /** Of the last samples in haste. */
  readonly #shares: number[] = [];
  /** What the last samples took, in milliseconds. */
  readonly #durations: number[] = [];

  /** @param stopwatch times samples, in milliseconds */
  constructor(stopwatch: () => number = () => performance.now()) {
    this.#stopwatch = stopwatch;
  }

  /**
   * Whether to compress a frame.
   *
   * @param rate at which bytes leave, in MB/s
   */
  judge(frame: Buffer, rate: number): boolean {
    // A machine that is busy for a moment is as fast as its quickest sample.
    if (rate * 1000 * Math.min(...this.#durations) > haste) return this.#judgeInHaste(frame);
    if (this.#followers > 0) {
      this.#followers--;
      return true;
    }
    const share = this.#shareOf(frame);
    if (share < obvious.below) this.#followers = obvious.followers;
    return share < worthwhile.anyway;
  }

  /** Judges by several frames, so that single ones do not keep threads awake. */
  #judgeInHaste(frame: Buffer): boolean {
    if (this.#frames++ % hasty.every === 0) keepLast(this.#shares, this.#shareOf(frame));
    return this.#shares.reduce((sum, share) => sum + share, 0) / this.#shares.length < worthwhile.inHaste;
  }

  /** What share of its size samples of a frame, taken as one, come to. None of a frame that is hardly longer. */
  #shareOf(frame: Buffer): number {
    if (frame.length <= 4 * sample.length) return 0;
    const started = this.#stopwatch();
    for (let index = 0; index < sampleCount; index++) {
      const start = Math.floor((frame.length * (index + 0.5)) / sampleCount);
      frame.copy(sample, index * samplePiece, start, start + samplePiece);
    }
    const small = compressFrame(sample);
    const { length } = small;
    freeWhole(small);
    keepLast(this.#durations, this.#stopwatch() - started);
    return length / sample.length;
  }
}

function keepLast(values: number[], value: number): void {
  values.push(value);
  if (values.length > hasty.samples) values.shift();
}

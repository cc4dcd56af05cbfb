/**
 * To be imported before what takes memory: gives the young generation of the JavaScript heap the size that it is to keep. At its first
 * size, one MiB, it was collected every millisecond while data streams through, for a tenth of the processor time. Left to itself it would
 * then grow to some fifty MiB, and with it the time for which buffers that hang on its garbage stay: a hundred MiB more of memory, and a
 * fifth more of processor time. That is seen to when data begins to stream: see streaming.ts.
 */
import { getHeapSpaceStatistics, setFlagsFromString } from 'node:v8';

/** MiB of the half of the young generation that is in use. */
const youngSize = 4;

function youngBytes(): number {
  const young = getHeapSpaceStatistics().find(({ space_name: name }) => name === 'new_space');
  return young === undefined ? Infinity : young.space_used_size + young.space_available_size;
}

// V8 reads the first size before any code runs; later it grows by a factor, once as much as it is large has survived.
setFlagsFromString(`--semi-space-growth-factor=${youngSize}`);
// Few and large, with nothing in them to be looked at: quickly copied.
const piece = Array.from({ length: 8000 }, () => 0.5);
const survivors: number[][] = [];
for (let round = 0; youngBytes() < 1.5 * 1024 * 1024 && round < 200; round++) survivors.push(piece.slice());
survivors.length = 0;
// V8's own default: under other flags it would compile all code that comes with Node anew.
setFlagsFromString('--semi-space-growth-factor=2');

/**
 * The C library gives memory back to the system as soon as 128 KiB at the end of its heap are free, and has it filled with zeros anew a
 * moment later: for each GiB that streams through, that cost a third of a second of processor time. Once a larger piece than that was
 * freed, it waits until twice that piece's size is free.
 *
 * @see mallopt(3), M_MMAP_THRESHOLD: the dynamic threshold
 */
new ArrayBuffer(4 * 1024 * 1024).transfer(0);

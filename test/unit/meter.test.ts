import assert from 'node:assert/strict';
import { describeProgress, Meter, Shipped, type MeterOptions } from '../../src/meter.ts';

describe('Meter', () => {
  const shown = (reader: MeterOptions['reader'], times: readonly number[], total?: number): string[] => {
    const lines: string[] = [];
    let now = 0;
    {
      using meter = new Meter({ label: 'shipping', reader, write: (text) => lines.push(text), clock: () => now });
      if (total !== undefined) meter.expect(total);
      for (const time of times) {
        now = time;
        meter.update(time * 1000);
      }
    }
    return lines;
  };

  it('keeps one line of a terminal, and clears it', () => {
    assert.deepEqual(shown('terminal', [100, 900, 1000, 1100, 1200], 10_000_000), [
      '\r\u001B[Kshipping: 1.0 MB of 10.0 MB, 1.0 MB/s, 9 s left',
      '\r\u001B[Kshipping: 1.2 MB of 10.0 MB, 1.0 MB/s, 9 s left',
      '\r\u001B[K',
    ]);
  });

  it('shows nothing once it was cleared', () => {
    const lines: string[] = [];
    let now = 0;
    const meter = new Meter({ label: 'shipping', reader: 'log', write: (text) => lines.push(text), clock: () => now });
    meter[Symbol.dispose]();
    now = 60_000;
    meter.update(1000);
    assert.deepEqual(lines, []);
  });

  it('tells what is left from when it knows how much there is', () => {
    const lines: string[] = [];
    let now = 0;
    using meter = new Meter({ label: 'shipping', reader: 'log', write: (text) => lines.push(text), clock: () => now });
    for (now = 10_000; now <= 20_000; now += 10_000) {
      meter.update(now * 1000);
      meter.expect(100_000_000);
    }
    assert.deepEqual(lines, ['shipping: 10.0 MB, 1.0 MB/s\n', 'shipping: 20.0 MB of 100 MB, 1.0 MB/s, 1 min 20 s left\n']);
  });

  it('writes a line every ten seconds elsewhere', () => {
    assert.deepEqual(shown('log', [1000, 9000, 10_000, 15_000, 20_000]), [
      'shipping: 10.0 MB, 1.0 MB/s\n',
      'shipping: 20.0 MB, 1.0 MB/s\n',
    ]);
  });

  it('writes a record a second for a program', () => {
    assert.deepEqual(
      shown('program', [900, 1000, 1500, 2500], 10_000_000).map((line) => JSON.parse(line) as unknown),
      [
        { progress: { stage: 'shipping', bytes: 1_000_000, bytesPerSecond: 1_000_000, total: 10_000_000, secondsLeft: 9 } },
        { progress: { stage: 'shipping', bytes: 2_500_000, bytesPerSecond: 1_000_000, total: 10_000_000, secondsLeft: 8 } },
      ],
    );
    assert.deepEqual(JSON.parse(shown('program', [1000])[0] ?? ''), {
      progress: { stage: 'shipping', bytes: 1_000_000, bytesPerSecond: 1_000_000 },
    });
  });

  it('tells sizes and times in words', () => {
    assert.equal(describeProgress(0, 0, 0), '0 B of 0 B, 0 B/s');
    assert.equal(describeProgress(123_456_789, 1_000_000_000_000, 1), '123 MB of 1.0 TB, 123 MB/s, 2 h 15 min left');
    assert.equal(describeProgress(2000, 1000, 1), '2.0 kB, 2.0 kB/s');
  });
});

describe('what has arrived of a content that is sent in another form', () => {
  it('is the share of what was read that has arrived of what it became', () => {
    const told: number[] = [];
    const shipped = new Shipped((bytes) => told.push(bytes));
    shipped.read(1000);
    shipped.arrived(0, 400);
    shipped.arrived(100, 400);
    shipped.read(2000);
    shipped.arrived(800, 800);
    assert.deepEqual(told, [0, 0, 250, 500, 2000]);
  });

  it('never becomes less', () => {
    const told: number[] = [];
    const shipped = new Shipped((bytes) => told.push(bytes));
    shipped.read(1000);
    shipped.arrived(10, 10);
    shipped.arrived(10, 20);
    assert.deepEqual(told, [0, 1000, 1000]);
  });
});

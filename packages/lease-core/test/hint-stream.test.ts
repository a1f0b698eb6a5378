import { expect } from 'chai'
import type { LeaseChange } from '#src/client.ts'
import { HintStream, warnOfNoHints, type HintStreamOptions } from '#src/hint-stream.ts'
import { TestClock, track } from '#src/testing/index.ts'

/** One connection as the test plays it. */
class Line {
  readonly tell: (change: LeaseChange) => void
  readonly signal: AbortSignal
  pings = 0
  closed = 0
  answersPings = true
  open: () => void = () => {}
  fail: () => void = () => {}
  end: () => void = () => {}

  constructor(tell: (change: LeaseChange) => void, signal: AbortSignal) {
    this.tell = tell
    this.signal = signal
  }
}

class Bench {
  readonly clock = new TestClock()
  readonly lines: Line[] = []
  readonly heard: LeaseChange[] = []
  readonly stream: HintStream

  constructor(failed?: HintStreamOptions['failed']) {
    const connect: HintStreamOptions['connect'] = (tell, signal) => {
      const line = new Line(tell, signal)
      this.lines.push(line)
      return new Promise((resolve, reject) => {
        line.fail = () => reject(new Error('refused'))
        line.open = () =>
          resolve({
            ended: new Promise<void>((end) => (line.end = end)),
            ping: () => {
              line.pings++
              return line.answersPings ? Promise.resolve() : new Promise(() => {})
            },
            close: () => {
              line.closed++
              line.end()
            },
          })
      })
    }
    this.stream = new HintStream({ clock: this.clock, connect, failed })
  }

  /** The connection made last. */
  get line(): Line {
    return this.lines.at(-1) ?? expect.fail('nothing was connected')
  }

  watch(): () => void {
    return this.stream.watch((change) => this.heard.push(change))
  }

  async listening(): Promise<() => void> {
    const stop = this.watch()
    this.line.open()
    await this.clock.settle()
    return stop
  }
}

const resync: LeaseChange = { kind: 'resync' }
const vacated: LeaseChange = { kind: 'vacated', lease: 'db' }

describe('HintStream: hints over one connection after the other', () => {
  it('connects for the first listener, for all of them once, and closes after the last', async () => {
    const bench = new Bench()
    const { clock, lines } = bench
    await clock.settle()
    expect(lines).to.have.length(0)
    const first = await bench.listening()
    const second = bench.watch()
    await clock.settle()
    expect(lines).to.have.length(1)
    first()
    await clock.settle()
    expect(bench.line.closed).to.equal(0)
    second()
    second()
    await clock.settle()
    expect(bench.line.closed).to.equal(1)
    expect(clock.pending).to.equal(0)
  })

  it('begins every connection with a resync, and passes on what it brings', async () => {
    const bench = new Bench()
    await bench.listening()
    bench.line.tell(vacated)
    expect(bench.heard).to.deep.equal([resync, vacated])
    bench.line.end()
    await bench.clock.settle()
    await bench.clock.advance(200)
    expect(bench.lines).to.have.length(2)
    bench.line.open()
    await bench.clock.settle()
    expect(bench.heard).to.deep.equal([resync, vacated, resync])
    await bench.stream.close()
  })

  it('says nothing of a connection that it has given up', async () => {
    const bench = new Bench()
    await bench.listening()
    const old = bench.line
    old.end()
    await bench.clock.settle()
    old.tell(vacated)
    expect(bench.heard).to.deep.equal([resync])
    await bench.stream.close()
  })

  it('waits longer after each failure, up to five seconds, and not long after a connection that worked', async () => {
    const bench = new Bench()
    bench.watch()
    for (let failures = 1; failures <= 10; failures++) {
      expect(bench.lines).to.have.length(failures)
      bench.line.fail()
      await bench.clock.settle()
      const longestMs = Math.min(5_000, 100 * 2 ** (failures - 1))
      await bench.clock.advance(longestMs / 2 - 1)
      expect(bench.lines, 'too early').to.have.length(failures)
      await bench.clock.advance(longestMs / 2 + 1)
    }
    bench.line.open()
    await bench.clock.advance(20_000)
    bench.line.end()
    await bench.clock.advance(100)
    expect(bench.lines).to.have.length(12)
    await bench.stream.close()
  })

  it('waits longer after each connection that did not last, and begins anew after one that did', async () => {
    const bench = new Bench()
    bench.watch()
    const flap = async (lastsMs: number): Promise<void> => {
      bench.line.open()
      await bench.clock.advance(lastsMs)
      bench.line.end()
      await bench.clock.settle()
    }
    for (const lastsMs of [0, 1, 10_000, 19_999, 0, 0, 0]) {
      await flap(lastsMs)
      await bench.clock.advanceToNext()
    }
    const before = bench.heard.length
    for (let ms = 0; ms < 60_000;) {
      await flap(0)
      ms += await bench.clock.advanceToNext()
    }
    expect(bench.heard.length - before).to.be.within(60_000 / 5_000, 60_000 / 2_500 + 1)
    await flap(20_000)
    const { length } = bench.lines
    await bench.clock.advance(100)
    expect(bench.lines).to.have.length(length + 1)
    await bench.stream.close()
  })

  it('asks a silent connection for a sign of life, and gives it up when there is none', async () => {
    const bench = new Bench()
    await bench.listening()
    const { line } = bench
    await bench.clock.advance(60_000)
    expect(line.pings).to.equal(3)
    line.answersPings = false
    await bench.clock.advance(39_000)
    expect(line.closed).to.equal(0)
    await bench.clock.advance(1_200)
    expect(line.closed).to.equal(1)
    expect(bench.lines).to.have.length(2)
    await bench.stream.close()
  })

  it('gives up a connection that does not come about, and closes it should it still come', async () => {
    const bench = new Bench()
    bench.watch()
    const { line } = bench
    await bench.clock.advance(20_200)
    expect(line.signal.aborted).to.equal(true)
    expect(bench.lines).to.have.length(2)
    line.open()
    await bench.clock.settle()
    expect(line.closed).to.equal(1)
    expect(bench.heard).to.deep.equal([])
    await bench.stream.close()
  })

  it('closes at once while it connects, and while it waits to connect again', async () => {
    const connecting = new Bench()
    connecting.watch()
    await connecting.stream.close()
    expect(connecting.line.signal.aborted).to.equal(true)
    expect(connecting.clock.pending).to.equal(0)
    connecting.line.open()
    await connecting.clock.settle()
    expect(connecting.line.closed).to.equal(1)
    expect(connecting.heard).to.deep.equal([])

    const waiting = new Bench()
    waiting.watch()
    waiting.line.fail()
    await waiting.clock.settle()
    await waiting.stream.close()
    await waiting.stream.close()
    expect(waiting.clock.pending).to.equal(0)
  })

  it('reports each attempt that failed, counts those in a row, and begins anew after a connection that lasted', async () => {
    const reports: [unknown, number][] = []
    const bench = new Bench((error, attempts) => reports.push([(error as Error).message, attempts]))
    const { clock } = bench
    bench.watch()
    const fail = async (): Promise<void> => {
      await clock.settle()
      bench.line.fail()
      await clock.advance(5_000)
    }
    await fail()
    await fail()
    // One that is dropped at once is no better.
    bench.line.open()
    await clock.settle()
    bench.line.end()
    await clock.advance(5_000)
    expect(reports).to.deep.equal([
      ['refused', 1],
      ['refused', 2],
      ['the connection ended', 3],
    ])
    bench.line.open()
    await clock.settle()
    await clock.advance(20_000)
    bench.line.end()
    await clock.advance(5_000)
    await fail()
    expect(reports.slice(3)).to.deep.equal([['refused', 1]])
    bench.line.fail()
    await bench.stream.close()
    expect(reports).to.have.length(4) // nobody wants it any more: that is no failure
  })

  it('is warned of once while it fails, and again after it has worked', () => {
    const warnings: string[] = []
    const failed = warnOfNoHints(
      ({ warning, message }) => warnings.push(`${warning}: ${message}`),
      (error) => new Error(`explained: ${(error as Error).message}`),
    )
    for (let attempts = 1; attempts <= 50; attempts++) failed(new Error('refused by x://user:secret@host'), attempts)
    expect(warnings).to.have.length(1)
    expect(warnings[0]).to.match(/^no-hints: .*5 times in a row \(explained: refused by x:\/\/…@host\)/)
    for (let attempts = 1; attempts <= 5; attempts++) failed(new Error('refused'), attempts)
    expect(warnings).to.have.length(2)
  })

  it('leaves no timer when it is closed while a sign of life is awaited', async () => {
    const bench = new Bench()
    await bench.listening()
    bench.line.answersPings = false
    await bench.clock.advance(20_000)
    expect(bench.line.pings).to.equal(1)
    await bench.stream.close()
    expect(bench.clock.pending).to.equal(0)
  })

  it('does not wait for a farewell for longer than half a second', async () => {
    const clock = new TestClock()
    const stream = new HintStream({
      clock,
      connect: async () => ({
        ended: new Promise(() => {}),
        ping: async () => {},
        close: () => new Promise(() => {}),
      }),
    })
    stream.watch(() => {})
    await clock.settle()
    let closed = false
    void stream.close().then(() => (closed = true))
    await clock.advance(499)
    expect(closed).to.equal(false)
    await clock.advance(1)
    expect(closed).to.equal(true)
  })

  it('is closed, and has no timer, when `close` resolves, also where its last listener had left before', async () => {
    const clock = new TestClock()
    let finish = (): void => {}
    const close = (): Promise<void> => new Promise((resolve) => (finish = resolve))
    const connection = { ended: new Promise(() => {}), ping: () => Promise.resolve(), close }
    const stream = new HintStream({ clock, connect: () => Promise.resolve(connection) })
    const leave = stream.watch(() => {})
    await clock.settle()
    leave()
    const closed = track(stream.close())
    await clock.settle()
    expect(closed.state).to.equal('pending')
    finish()
    await clock.settle()
    expect([closed.state, clock.pending]).to.deep.equal(['fulfilled', 0])
  })
})

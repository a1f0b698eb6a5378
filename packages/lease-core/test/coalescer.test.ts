import { expect } from 'chai'
import { Coalescer } from '#src/coalescer.ts'
import { TestClock } from '#src/testing/index.ts'

class Bench {
  readonly clock = new TestClock()
  readonly batches: (readonly number[])[] = []
  readonly answers: (() => void)[] = []
  readonly coalescer: Coalescer<number, string>

  constructor(maxItems: number, maxInFlight: number, enough?: number, timeoutOf?: (item: number) => number) {
    this.coalescer = new Coalescer(this.clock, { maxItems, maxInFlight, enough, timeoutOf }, (batch) => {
      this.batches.push(batch)
      return new Promise((resolve) => this.answers.push(() => resolve(batch.map((item) => `#${item}`))))
    })
  }

  submit(count: number, from = 0): Promise<(string | undefined)[]> {
    return Promise.all(Array.from({ length: count }, (_, index) => this.coalescer.submit(from + index)))
  }
}

const settle = (): Promise<void> => new TestClock().settle()

describe('Coalescer: many concurrent calls, few round trips', () => {
  it('one caller alone is sent before the event loop goes on: no timer, no delay', async () => {
    const bench = new Bench(10, 1)
    void bench.submit(1)
    await new Promise((resolve) => process.nextTick(resolve))
    expect(bench.batches).to.deep.equal([[0]])
  })

  it('callers that were answered together travel together again, however many steps each takes until it asks', async () => {
    const bench = new Bench(100, 2)
    const again = async (caller: number): Promise<void> => {
      await bench.coalescer.submit(caller)
      for (let steps = caller; steps > 0; steps--) await Promise.resolve()
      await bench.coalescer.submit(100 + caller)
    }
    for (let caller = 0; caller < 20; caller++) void again(caller)
    await settle()
    bench.answers[0]?.()
    await settle()
    expect(bench.batches.map(({ length }) => length)).to.deep.equal([20, 20])
  })

  it('calls of one turn travel together, in order, at most maxItems', async () => {
    const bench = new Bench(3, 9)
    const all = bench.submit(7)
    await settle()
    expect(bench.batches).to.deep.equal([[0, 1, 2], [3, 4, 5], [6]])
    for (const answer of bench.answers) answer()
    expect(await all).to.deep.equal(['#0', '#1', '#2', '#3', '#4', '#5', '#6'])
  })

  it('while all slots are out, calls gather; the next free slot takes them all', async () => {
    const bench = new Bench(100, 1)
    void bench.submit(1)
    await settle()
    void bench.submit(20, 1)
    await settle()
    void bench.submit(20, 21)
    await settle()
    expect(bench.batches.length).to.equal(1)
    bench.answers[0]?.()
    await settle()
    expect(bench.batches.map(({ length }) => length)).to.deep.equal([1, 40])
  })

  it('what is more than enough for one is divided among the free slots', async () => {
    const bench = new Bench(100, 4, 10)
    void bench.submit(15)
    await settle()
    void bench.submit(30)
    await settle()
    expect(bench.batches.map(({ length }) => length)).to.deep.equal([10, 5, 15, 15])
    void bench.submit(300)
    await settle()
    bench.answers[0]?.()
    await settle()
    expect(bench.batches.at(-1)?.length).to.equal(100)
    for (const [index, answer] of bench.answers.entries()) if (index > 0) answer()
    await settle()
    expect(bench.batches.slice(-4).map(({ length }) => length)).to.deep.equal([50, 50, 50, 50])
  })

  it('what nobody waits for is not divided', async () => {
    const bench = new Bench(100, 4, 10)
    const heard = (): void => {}
    for (let item = 0; item < 150; item++) {
      bench.coalescer.enqueue({ item, signal: undefined, patient: true, settle: heard })
    }
    await settle()
    expect(bench.batches.map(({ length }) => length)).to.deep.equal([100, 50])
  })

  it('a batch that hangs does not delay the next while a slot is free', async () => {
    const bench = new Bench(10, 2)
    void bench.submit(1)
    await settle()
    const second = bench.submit(1, 7)
    await settle()
    bench.answers[1]?.()
    expect(await second).to.deep.equal(['#7'])
  })

  it('what was aborted before it was sent never is', async () => {
    const bench = new Bench(10, 1)
    const controller = new AbortController()
    const gone = bench.coalescer.submit(1, controller.signal)
    const stays = bench.coalescer.submit(2)
    controller.abort()
    await settle()
    expect(bench.batches).to.deep.equal([[2]])
    expect(await gone).to.equal(undefined)
    bench.answers[0]?.()
    expect(await stays).to.equal('#2')
  })

  it('a batch whose calls were all aborted is not sent, and holds no slot', async () => {
    const bench = new Bench(10, 1)
    expect(await bench.coalescer.submit(1, AbortSignal.abort())).to.equal(undefined)
    void bench.submit(1, 2)
    await settle()
    expect(bench.batches).to.deep.equal([[2]])
  })

  it('items with the same key never share a batch; the later one goes with the next at once', async () => {
    const bench = new Bench(10, 4)
    for (const item of [1, 2, 3]) void bench.coalescer.submit(item, undefined, `key-${item}`)
    for (const item of [20, 21]) void bench.coalescer.submit(item, undefined, 'key-2')
    void bench.coalescer.submit(4)
    void bench.coalescer.submit(4)
    await settle()
    expect(bench.batches).to.deep.equal([[1, 2, 3, 4, 4], [20], [21]])
  })

  it('the order of those with one key is kept, also where the batch is full', async () => {
    const bench = new Bench(3, 9)
    for (const item of [10, 11, 20, 30, 12, 31, 40]) {
      void bench.coalescer.submit(item, undefined, `${Math.floor(item / 10)}`)
    }
    await settle()
    expect(bench.batches).to.deep.equal([[10, 20, 30], [11, 31, 40], [12]])
  })
})

describe('Coalescer: one slow thing does not delay the others', () => {
  /** Takes every slot. */
  async function blocked(bench: Bench, batches: number): Promise<void> {
    for (let index = 0; index < batches; index++) {
      void bench.submit(1, 1_000 + index)
      await settle()
    }
    expect(bench.batches.length).to.equal(batches)
  }

  it('batches that hang give their slots back after a short while', async () => {
    const bench = new Bench(10, 2)
    await blocked(bench, 2)
    const healthy = bench.submit(2, 1)
    await bench.clock.advance(40)
    expect(bench.batches.length, 'a store that answers soon is not sent more').to.equal(2)
    await bench.clock.advance(20)
    expect(bench.batches.slice(2)).to.deep.equal([[1, 2]])
    bench.answers[2]?.()
    expect(await healthy).to.deep.equal(['#1', '#2'])
    expect(bench.clock.pending).to.equal(0)
  })

  it('who comes when batches hang already is sent at once', async () => {
    const bench = new Bench(10, 2)
    await blocked(bench, 2)
    await bench.clock.advance(60)
    void bench.submit(1)
    await settle()
    expect(bench.batches[2]).to.deep.equal([0])
    expect([bench.clock.fired, bench.clock.pending], 'and needs no timer').to.deep.equal([0, 0])
  })

  it('a store that hangs for all gets eight times as many batches, and no more until one is answered', async () => {
    const bench = new Bench(1, 2)
    void bench.submit(100)
    await bench.clock.advance(10_000)
    expect(bench.batches.length).to.equal(16)
    expect(bench.clock.pending).to.equal(0)
    bench.answers[3]?.()
    bench.answers[7]?.()
    await settle()
    expect(bench.batches.length).to.equal(18)
  })

  it('a slow batch that is answered at last takes no slot from those sent meanwhile', async () => {
    const bench = new Bench(1, 1)
    await blocked(bench, 1)
    await bench.clock.advance(60)
    void bench.submit(1, 1)
    await settle()
    void bench.submit(1, 2)
    bench.answers[0]?.()
    await settle()
    expect(bench.batches, 'one is in flight, and not slow').to.deep.equal([[1_000], [1]])
    bench.answers[1]?.()
    await settle()
    expect(bench.batches.at(-1)).to.deep.equal([2])
    bench.answers[2]?.()
    await settle()
    expect(bench.clock.pending).to.equal(0)
  })

  it('sets one timer, only when something waits and no slot is free', async () => {
    const bench = new Bench(1_000, 2)
    await blocked(bench, 2)
    expect(bench.clock.pending).to.equal(0)
    for (let index = 0; index < 100; index++) {
      void bench.submit(1, index)
      await settle()
    }
    expect(bench.clock.pending).to.equal(1)
    bench.answers[0]?.()
    await settle()
    bench.answers[1]?.()
    bench.answers[2]?.()
    await settle()
    expect([bench.clock.pending, bench.clock.fired]).to.deep.equal([0, 0])
  })

  it('one that waits while the store hangs is settled soon after its signal aborts', async () => {
    const bench = new Bench(1, 1)
    void bench.submit(9)
    await bench.clock.advance(1_000)
    const controller = new AbortController()
    let told = 'nothing'
    void bench.coalescer.submit(100, controller.signal).then((answer) => (told = `${answer}`))
    await bench.clock.advance(1_000)
    expect(told).to.equal('nothing')
    controller.abort()
    await bench.clock.advance(100)
    expect(told).to.equal('undefined')
    expect(bench.batches.flat()).to.not.include(100)
    expect(bench.clock.pending).to.equal(0)
  })

  it('one whose signal aborts is settled also while the total is the limit and slots are free', async () => {
    const bench = new Bench(1, 3)
    void bench.submit(24)
    await bench.clock.advance(10_000)
    bench.answers[0]?.()
    await settle()
    void bench.submit(1)
    await settle()
    expect(bench.batches.length).to.equal(25)
    const controller = new AbortController()
    const gone = bench.coalescer.submit(100, controller.signal)
    await settle()
    controller.abort()
    await bench.clock.advance(100)
    expect(await gone).to.equal(undefined)
  })

  it('a short time-out and a long one do not share a batch, in any order', async () => {
    const bench = new Bench(10, 3, undefined, (item) => item)
    for (const item of [5_000, 250, 4_000, 300, 1_000, 2_500, 400]) void bench.coalescer.submit(item)
    await settle()
    expect(bench.batches).to.deep.equal([[5_000, 4_000, 2_500], [250, 300, 400], [1_000]])
  })

  it('in a batch the longest time-out is at most twice the shortest', async () => {
    const bench = new Bench(10, 3, undefined, (item) => item)
    for (const item of [1_000, 2_000, 500, 1_500]) void bench.coalescer.submit(item)
    await settle()
    expect(bench.batches).to.deep.equal([[1_000, 2_000, 1_500], [500]])
  })

  it('time-outs that are much alike share full batches again after others have left the queue', async () => {
    const bench = new Bench(2, 1, undefined, (item) => item)
    for (const item of [250, 5_000, 5_001, 5_002, 5_003]) void bench.coalescer.submit(item)
    for (let index = 0; index < 3; index++) {
      await settle()
      bench.answers[index]?.()
    }
    await settle()
    expect(bench.batches).to.deep.equal([[250], [5_000, 5_001], [5_002, 5_003]])
  })
})

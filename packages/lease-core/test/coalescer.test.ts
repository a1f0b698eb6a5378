import { expect } from 'chai'
import { Coalescer } from '#src/coalescer.ts'
import { TestClock } from '#src/testing/index.ts'

class Bench {
  readonly batches: (readonly number[])[] = []
  readonly answers: (() => void)[] = []
  readonly coalescer: Coalescer<number, string>

  constructor(maxItems: number, maxInFlight: number, enough?: number) {
    this.coalescer = new Coalescer({ maxItems, maxInFlight, enough }, (batch) => {
      this.batches.push(batch)
      return new Promise((resolve) => this.answers.push(() => resolve(batch.map((item) => `#${item}`))))
    })
  }

  submit(count: number, from = 0): Promise<(string | undefined)[]> {
    return Promise.all(Array.from({ length: count }, (_, index) => this.coalescer.submit(from + index)))
  }
}

const settle = (): Promise<void> => new TestClock().settle()

describe('Coalescer: many concurrent calls, few round trips (decision 9)', () => {
  it('one caller alone is sent with the next microtask: no timer, no delay', async () => {
    const bench = new Bench(10, 1)
    void bench.submit(1)
    await Promise.resolve()
    expect(bench.batches).to.deep.equal([[0]])
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

  it('a batch of which all were aborted is not sent, and holds no slot', async () => {
    const bench = new Bench(10, 1)
    expect(await bench.coalescer.submit(1, AbortSignal.abort())).to.equal(undefined)
    void bench.submit(1, 2)
    await settle()
    expect(bench.batches).to.deep.equal([[2]])
  })
})

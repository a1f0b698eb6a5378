import { expect } from 'chai'
import { SharedReads } from '#src/shared-reads.ts'
import { TestClock, track } from '#src/testing/index.ts'

class Bench {
  readonly clock = new TestClock()
  readonly batches: (readonly string[])[] = []
  readonly answers: ((error?: Error) => void)[] = []
  readonly reads: SharedReads

  constructor({ maxItems = 10, maxInFlight = 4 } = {}) {
    this.reads = new SharedReads(this.clock, { maxItems, maxInFlight }, (names) => {
      this.batches.push(names)
      return new Promise((resolve, reject) =>
        this.answers.push((error) => (error === undefined ? resolve() : reject(error))),
      )
    })
  }

  ask(name: string): { readonly state: string } {
    return track(this.reads.read(name))
  }

  settle(): Promise<void> {
    return this.clock.settle()
  }
}

describe('SharedReads: one read of a name in flight, and one that waits', () => {
  it('those who ask before a read is sent share it; names of one turn share a round trip', async () => {
    const bench = new Bench()
    const asked = ['x', 'y', 'x', 'x', 'y'].map((name) => bench.ask(name))
    await bench.settle()
    expect(bench.batches).to.deep.equal([['x', 'y']])
    bench.answers[0]?.()
    await bench.settle()
    expect(asked.every(({ state }) => state === 'fulfilled')).to.equal(true)
  })

  it('nobody is answered by a read that was sent before it asked', async () => {
    const bench = new Bench()
    const first = bench.ask('x')
    await bench.settle()
    const late = [bench.ask('x'), bench.ask('x'), bench.ask('x')]
    await bench.settle()
    expect(bench.batches.length, 'one of a name in flight').to.equal(1)
    bench.answers[0]?.()
    await bench.settle()
    expect([first, ...late].map(({ state }) => state)).to.deep.equal(['fulfilled', 'pending', 'pending', 'pending'])
    expect(bench.batches).to.deep.equal([['x'], ['x']])
    const later = bench.ask('x')
    bench.answers[1]?.()
    await bench.settle()
    expect([...late, later].map(({ state }) => state)).to.deep.equal(['fulfilled', 'fulfilled', 'fulfilled', 'pending'])
  })

  it('one asked from the answer of another is a new read', async () => {
    const bench = new Bench()
    const again = bench.reads.read('x').then(() => bench.reads.read('x'))
    await bench.settle()
    bench.answers[0]?.()
    await bench.settle()
    expect(bench.batches).to.deep.equal([['x'], ['x']])
    bench.answers[1]?.()
    await again
  })

  it('those who share a read hear why it failed; the next read is sent all the same', async () => {
    const bench = new Bench()
    const first = [bench.ask('x'), bench.ask('y')]
    await bench.settle()
    const next = bench.ask('x')
    bench.answers[0]?.(new Error('away'))
    await bench.settle()
    expect([...first, next].map(({ state }) => state)).to.deep.equal(['rejected', 'rejected', 'pending'])
    bench.answers[1]?.()
    await bench.settle()
    expect(next.state).to.equal('fulfilled')
  })

  it('a name whose reads hang takes one slot, however many ask, and delays no other name', async () => {
    const bench = new Bench({ maxInFlight: 2 })
    for (let index = 0; index < 20; index++) {
      bench.ask('bad')
      await bench.settle()
    }
    const good = bench.ask('good')
    await bench.settle()
    expect(bench.batches).to.deep.equal([['bad'], ['good']])
    bench.answers[1]?.()
    await bench.settle()
    expect(good.state).to.equal('fulfilled')
    expect(bench.clock.fired).to.equal(0)
  })
})

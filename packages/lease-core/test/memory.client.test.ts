import { expect } from 'chai'
import type { Client } from '#src/client.ts'
import { ErrInvalid, ErrNotValid } from '#src/errors.ts'
import { memoryClient, MemoryGuard, MemoryStore } from '#src/memory/index.ts'
import { TestClock } from '#src/testing/index.ts'

async function invalid(work: Promise<void>): Promise<void> {
  let error: unknown
  await work.catch((thrown: unknown) => (error = thrown))
  expect(error).to.be.instanceOf(ErrInvalid)
}

describe('memoryClient: a Client whose leases live in this process', () => {
  it('options that are no object are refused', () => {
    for (const options of [null, 5, '']) expect(() => memoryClient(options as never)).to.throw(ErrNotValid, /options/)
  })

  it('works with nothing given', async () => {
    const client = memoryClient()
    await client.claimLease('db', { holder: 'a', duration: { seconds: 30 }, value: 'here' })
    expect(client.leases().get('db')).to.include({ holder: 'a', value: 'here', pinned: false })
    const guard = new MemoryGuard(() => 'written')
    await client.leases().get('db')?.trapdoor(guard)
    expect(guard.result).to.equal('written')
    await client.close()
  })

  it('clients on one store contend, and each sees who holds the lease', async () => {
    const clock = new TestClock()
    const store = new MemoryStore({ clock })
    const [a, b] = [memoryClient({ store, clock }), memoryClient({ store, clock })]
    await a.claimLease('db', { holder: 'a', duration: 1000 })
    await invalid(b.claimLease('db', { holder: 'b', duration: 1000 }))
    expect(b.leases().get('db')?.holder).to.equal('a')
    await clock.advance(1002)
    await b.claimLease('db', { holder: 'b', duration: 1000 })
    await invalid(a.extendLease('db', { holder: 'a', duration: 1000 }))
    expect(a.leases().get('db')?.holder).to.equal('b')
  })

  it('at the very expiry the refused claim shows the holder that forbids it', async () => {
    const clock = new TestClock()
    const store = new MemoryStore({ clock })
    const [a, b] = [memoryClient({ store, clock }), memoryClient({ store, clock })]
    await a.claimLease('db', { holder: 'a', duration: 1000 })
    await clock.advance(1000)
    await invalid(b.claimLease('db', { holder: 'b', duration: 1000 }))
    expect(b.leases().get('db')?.holder).to.equal('a')
  })

  it('without a server clock a lease is taken over by anyone who watched one version for the whole duration', async () => {
    const clock = new TestClock()
    const store = new MemoryStore({ clock, serverClock: false })
    const [a, b] = [memoryClient({ store, clock }), memoryClient({ store, clock })]
    const tryIt = (client: Client): Promise<void> => client.claimLease('db', { holder: 'b', duration: 1000 })
    await a.claimLease('db', { holder: 'a', duration: 1000 })
    await clock.advance(5000)
    await invalid(tryIt(b)) // first sight: the clock starts here
    await clock.advance(900)
    await a.claimLease('db', { holder: 'a', duration: 1000 }) // its own lapsed term, taken over by a new one
    await clock.advance(200)
    await invalid(tryIt(b)) // another version: it starts again
    await clock.advance(1000)
    await invalid(tryIt(b))
    await clock.advance(10)
    await tryIt(b)
    expect(b.leases().get('db')?.holder).to.equal('b')
  })
})

describe('MemoryGuard: its body runs between the check and the next step, or not at all', () => {
  const later = 'must be synchronous: it returned a promise or an iterator, whose work is not guarded'

  it('functions whose body runs later are refused', () => {
    const bodies = [async () => {}, function* () {}, async function* () {}] as unknown as (() => never)[]
    for (const body of bodies) expect(() => new MemoryGuard(body)).to.throw(ErrNotValid, 'synchronous function')
  })

  it('a body that returns a promise or an iterator rejects the check', async () => {
    const client = memoryClient()
    await client.claimLease('db', { holder: 'a', duration: 1_000 })
    const generate = function* (): Generator<number> {
      yield 1
    }
    const bodies = [() => Promise.resolve(1), () => generate(), () => [1].values()] as unknown as (() => never)[]
    for (const body of bodies) {
      const guard = new MemoryGuard(body)
      const outcome: unknown = await client
        .leases()
        .get('db')
        ?.trapdoor(guard)
        .catch((error: unknown) => error)
      expect(outcome).to.be.instanceOf(ErrNotValid)
      expect((outcome as ErrNotValid).problems[0]).to.include({ argument: 'body', rule: later })
      expect(guard.result).to.equal(undefined)
    }
    for (const result of [[1], new Map(), { next: 1 }, 'text', null]) {
      const guard = new MemoryGuard<unknown>(() => result as never)
      await client.leases().get('db')?.trapdoor(guard)
      expect(guard.result).to.equal(result)
    }
    await client.close()
  })
})

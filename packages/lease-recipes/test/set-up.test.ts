/** A set-up of the store that cannot work ends what waits in a recipe: nothing is retried in silence. */
import { expect } from 'chai'
import { ErrUnknown, Manager, MemoryStore, MemorySubstrate } from 'lease-core'
import { StoreFailure, SubstrateClient } from 'lease-core/adapter'
import { FaultySubstrate, TestClock, track } from 'lease-core/testing'
import {
  Authority,
  election,
  FailClosedLock,
  FailOpenLock,
  holdAll,
  lead,
  ReadWriteLock,
  Semaphores,
  withLease,
} from 'lease-recipes'

type Given = { readonly manager: Manager; readonly clock: TestClock }

const ttl = { seconds: 30 }

const waits: Readonly<Record<string, (given: Given) => Promise<unknown>>> = {
  'the start of a candidate': (given) => election(given)({ path: '/a', value: 'x' }).start(),
  'the start of an observer': (given) => election(given)({ path: '/a', candidate: false }).start(),
  'an authority': (given) => new Authority({ ...given, lease: 'a', ttl }).ready({ wait: true }),
  lead: ({ manager, clock }) => lead(manager, 'a', () => {}, { clock }).finished,
  withLease: ({ manager }) => withLease(manager, 'a', { duration: ttl, wait: true }, () => {}),
  holdAll: ({ manager, clock }) => holdAll(manager, ['a', 'b'], 'me', { clock, duration: ttl, wait: true }),
  'a fail-open lock': (given) => new FailOpenLock({ ...given, leaseDuration: ttl }).acquire('a', { wait: true }),
  'a fail-closed lock': (given) => new FailClosedLock({ ...given, leaseDuration: ttl }).acquire('a', { wait: true }),
  'a semaphore': (given) => new Semaphores(given).post('a', 'me', 30_000, { n: 3 }),
  'a lock for reading': (given) => new ReadWriteLock({ ...given, name: 'a' }).rlock('me'),
  'a lock for writing': (given) => new ReadWriteLock({ ...given, name: 'a' }).wlock('me'),
}

describe('recipes over a set-up that cannot work', () => {
  for (const [name, wait] of Object.entries(waits)) {
    it(`${name} rejects at once, with the words of the store`, async () => {
      const clock = new TestClock()
      const network = new FaultySubstrate(new MemorySubstrate({ store: new MemoryStore({ clock }) }), { clock })
      network.reject(new StoreFailure('the tables are missing: run migrate()', { isSetUp: true }))
      const client = new SubstrateClient({ substrate: network, clock })
      const manager = new Manager({ client, clock })
      const outcome = track(wait({ manager, clock }))
      await clock.advance(10)
      expect(outcome.state).to.equal('rejected')
      expect(outcome.error).to.be.instanceOf(ErrUnknown).and.have.property('reason', 'set-up')
      expect((outcome.error as Error).message).to.include('run migrate()')
      await manager.stop()
    })
  }
})

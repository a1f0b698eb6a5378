/** Ids and prefixes as callers give them: every recipe checks, escapes and joins them in one way. */
import { expect } from 'chai'
import { ErrNotValid, Manager, memoryClient } from 'lease-core'
import { Once, OncePer, ReadWriteLock, Semaphores, Throttle, webLocks } from 'lease-recipes'

interface Recipe {
  /** What the id is called. */
  readonly argument: string
  /** How much longer the longest name is that is made of the id. */
  readonly more: number
  /** Takes a lease for the id. */
  readonly take: (manager: Manager, id: string, prefix: string) => Promise<unknown>
}

const recipes: Readonly<Record<string, Recipe>> = {
  semaphore: {
    argument: 'id',
    more: 0,
    take: async (manager, id, prefix) => new Semaphores({ manager, prefix }).post(id, 'a', 60_000, { n: 1 }),
  },
  'read-write lock': {
    argument: 'name',
    more: 0,
    take: async (manager, name, prefix) => new ReadWriteLock({ manager, name, prefix }).wlock('a'),
  },
  throttle: {
    argument: 'name',
    more: 0,
    take: async (manager, name, prefix) => new Throttle({ manager, name, prefix, n: 1, period: 60_000 }).start(),
  },
  'web locks': {
    argument: 'name',
    more: 0,
    take: (manager, name, prefix) =>
      new Promise((resolve, reject) => {
        const entered = (): Promise<void> => {
          resolve(undefined)
          return new Promise(() => {})
        }
        Promise.resolve()
          .then(() => webLocks(manager, { prefix }).request(name, entered))
          .catch(reject)
      }),
  },
  once: {
    argument: 'key',
    more: 0,
    take: async (manager, key, prefix) => new Once({ manager, prefix }).run(key, () => 1),
  },
  'once per': {
    argument: 'name',
    more: '/0'.length,
    take: async (manager, name, prefix) => new OncePer({ manager, prefix }).begin(name, '2026-03'),
  },
}

/** Problems do not repeat a long text. */
function shown(value: unknown): unknown {
  return typeof value === 'string' && value.length > 100 ? `a string of ${value.length} characters` : value
}

for (const [name, { argument, more, take }] of Object.entries(recipes)) {
  describe(`ids: ${name}`, () => {
    let manager: Manager

    beforeEach(() => {
      manager = new Manager({ client: memoryClient() })
    })
    afterEach(() => manager.stop())

    async function problemsOf(id: unknown, prefix: unknown = 'of'): Promise<ErrNotValid['problems']> {
      const error: unknown = await take(manager, id as string, prefix as string).then(
        () => undefined,
        (thrown: unknown) => thrown,
      )
      expect(error).to.be.instanceOf(ErrNotValid)
      return (error as ErrNotValid).problems
    }

    async function leases(): Promise<string[]> {
      return Array.from((await manager.leases()).keys(), (lease) => lease.replace(/#.*/, ''))
    }

    it('an id that breaks a rule is refused by its name and value, and so is one too long for its prefix', async () => {
      const most = 255 - 'of/'.length - more
      for (const id of [undefined, 5, '', '\ud800', {}, 'x'.repeat(most + 1), 'ü'.repeat(most / 6 + 1)]) {
        const problems = await problemsOf(id)
        expect(problems.map((problem) => problem.argument)).to.deep.equal([argument])
        expect(problems[0]?.value).to.deep.equal(shown(id))
      }
      expect(await leases()).to.deep.equal([])
      await take(manager, 'x'.repeat(most), 'of')
      expect(await leases()).to.include(`of/${'x'.repeat(most)}`)
    })

    it('a prefix that breaks a rule is refused, before anything is sent', async () => {
      for (const prefix of [5, '', 'a b', 'a.b', '\ud800', 'x'.repeat(256)]) {
        const problems = await problemsOf('id', prefix)
        expect(problems[0]).to.include({ argument: 'prefix', value: shown(prefix) })
      }
      expect(await leases()).to.deep.equal([])
    })

    it('an id and its prefix are escaped, each as one part of a name', async () => {
      await take(manager, 'eu/my.app #1', 'a/b')
      expect(await leases()).to.include('a%2Fb/eu%2Fmy%2Eapp%20%231')
    })
  })
}

import { expect } from 'chai'
import { ErrUnknown, type Info, type Manager } from 'lease-core'
import { ErrNoSemaphore, Semaphores } from '#src/semaphore.ts'
import { Bench, rejection, type Process } from './bench.ts'
import { stores } from './stores.ts'

for (const store of stores()) {
  describe(`Semaphore, being destroyed, on ${store.name}`, () => {
    const long = 8000 * store.unitMs
    const retries = 0
    let bench: Bench
    let here: Process
    let there: Process
    let elsewhere: Process

    before(() => store.open())
    after(() => store.close())
    beforeEach(() => {
      bench = new Bench(store)
      here = bench.process()
      there = bench.process()
      elsewhere = bench.process()
    })
    afterEach(() => bench.close())

    function semaphores(manager: Manager): Semaphores {
      return bench.own(new Semaphores({ manager, clock: store.clock }))
    }

    /** Whoever administers by this manager goes on after each such call when the test lets him. */
    function between(
      manager: Manager,
      call: 'revoke' | 'unpin',
      lease: string,
      meanwhile: () => Promise<unknown>,
    ): Manager {
      const intercepted = async (name: string, ...more: never[]): Promise<void> => {
        await (manager[call] as (...args: unknown[]) => Promise<void>)(name, ...more)
        if (name === lease) await meanwhile()
      }
      return replaced(manager, { [call]: intercepted })
    }

    /** One whom no change of this lease is told, once he has read it. */
    function deaf(manager: Manager, lease: string): Manager {
      async function* observe(
        name: string,
        options: { readonly signal: AbortSignal },
      ): AsyncGenerator<Info | undefined, void> {
        for await (const info of manager.observe(name, options)) {
          yield info
          if (name !== lease) continue
          await new Promise((_, reject) => {
            options.signal.addEventListener('abort', () => reject(options.signal.reason as Error))
          })
        }
      }
      return replaced(manager, { observe })
    }

    async function pinned(): Promise<string[]> {
      return [...(await bench.within(elsewhere.manager.pinned())).keys()]
    }

    it('DSM-4: what is taken from one who has not heard is given to nobody else meanwhile, heard or not', async () => {
      let posts = 0
      const late = semaphores(deaf(there.manager, 'semaphores/pool'))
      const meanwhile = async (): Promise<void> => {
        posts++
        await rejection(late.post('pool', 'late', long, { retries }), ErrNoSemaphore)
        await rejection(semaphores(elsewhere.manager).post('pool', 'new', long, { retries }), ErrNoSemaphore)
      }
      const administrator = semaphores(between(elsewhere.manager, 'revoke', 'semaphores/pool/0', meanwhile))
      await bench.within(administrator.create('pool', 1))
      await (await bench.within(late.post('pool', 'before', long, { retries }))).close()
      const permit = await bench.within(semaphores(here.manager).post('pool', 'x', long, { retries }))
      here.pause() // it does not find out
      await bench.within(administrator.destroy('pool'))
      expect([permit.held, posts]).to.deep.equal([true, 1])
      expect(await pinned()).to.deep.equal([])
      await bench.within(administrator.create('pool', 1))
      await bench.within(late.post('pool', 'after', long, { retries }))
    })

    it('DSM-4: once it is being destroyed there is no such semaphore; given up, it is completed by the next creation', async () => {
      const giveUp = new AbortController()
      const stop = async (): Promise<void> => giveUp.abort(new Error('never mind'))
      const hasty = semaphores(between(there.manager, 'revoke', 'semaphores/pool/0', stop))
      const a = semaphores(here.manager)
      await bench.within(a.create('pool', 3))
      const permits = await bench.within(
        Promise.all(['x', 'y', 'z'].map((holder) => a.post('pool', holder, long, { retries, keepAlive: true }))),
      )
      const waiting = rejection(a.post('pool', 'w', long), ErrNoSemaphore)
      const given = rejection(hasty.destroy('pool', { signal: giveUp.signal }), Error)
      expect((await bench.within(given)).message).to.equal('never mind')
      await bench.within(waiting)
      const b = semaphores(elsewhere.manager)
      for (const one of [a, b]) {
        await rejection(bench.within(one.read('pool')), ErrNoSemaphore)
        await rejection(bench.within(one.post('pool', 'v', long)), ErrNoSemaphore)
        await rejection(bench.within(one.resize('pool', 2)), ErrNoSemaphore)
      }
      await bench.within(b.create('pool', 1))
      await store.until('every loss', () => permits.every(({ held }) => !held))
      expect(await bench.within(b.read('pool'))).to.deep.equal({ n: 1, active: 0, holders: [] })
      expect(await pinned()).to.deep.equal(['semaphores/pool'])
      await bench.within(a.post('pool', 'x', long, { retries }))
    })

    it('DSM-4: … or by the next destruction', async () => {
      const giveUp = new AbortController()
      const stop = async (): Promise<void> => giveUp.abort(new Error('never mind'))
      const hasty = semaphores(between(there.manager, 'revoke', 'semaphores/pool/0', stop))
      const a = semaphores(here.manager)
      await bench.within(a.create('pool', 2))
      const permit = await bench.within(a.post('pool', 'x', long, { retries, keepAlive: true }))
      const other = await bench.within(a.post('pool', 'y', long, { retries, keepAlive: true }))
      await rejection(bench.within(hasty.destroy('pool', { signal: giveUp.signal })), Error)
      await bench.within(a.destroy('pool'))
      await store.until('every loss', () => !permit.held && !other.held)
      expect(await pinned()).to.deep.equal([])
    })

    it('a slot that was left pinned by an administrator who was late is set right by the next one', async () => {
      const a = semaphores(here.manager)
      await bench.within(a.create('pool', 2))
      const permit = await bench.within(a.post('pool', 'x', long, { retries }))
      await bench.within(there.manager.pin(permit.lease, 'semaphore'))
      await bench.within(a.post('pool', 'y', long, { retries })) // nor does it keep anybody from a permit
      await bench.within(a.resize('pool', 3))
      expect(await pinned()).to.deep.equal(['semaphores/pool'])
    })

    if (store.name !== 'memory') return // it takes as long as a crashed administrator is waited for
    it('DSM-4: whoever is late with the end of a destruction leaves what was created since alone', async () => {
      const pause = async (): Promise<void> => there.pause()
      const slow = semaphores(between(there.manager, 'unpin', 'semaphores/pool/0', pause))
      const a = semaphores(here.manager)
      await bench.within(a.create('pool', 1))
      const destroyed = rejection(slow.destroy('pool'), ErrUnknown)
      await store.pass(12_000)
      await bench.within(a.create('pool', 1))
      there.resume()
      await bench.within(destroyed)
      await store.pass(120_000)
      const permit = await bench.within(a.post('pool', 'x', long, { retries }))
      expect(permit.held).to.equal(true)
    })
  })
}

/** The manager with other methods. */
function replaced(manager: Manager, methods: object): Manager {
  return new Proxy(manager, {
    get: (target, name) => {
      const member: unknown = Reflect.get(name in methods ? methods : target, name)
      return typeof member === 'function' ? (member as (...args: unknown[]) => unknown).bind(target) : member
    },
  })
}

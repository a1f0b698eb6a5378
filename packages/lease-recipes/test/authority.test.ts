import { expect } from 'chai'
import { ErrLost, ErrNotHeld, ErrStopped, ErrUnknown, Manager, memoryClient } from 'lease-core'
import { TestClock, track } from 'lease-core/testing'
import { DateTime } from 'luxon'
import { Authority, type AuthorityEvents, type AuthorityOptions } from '#src/authority.ts'
import { Bench, record, rejection, undisturbed, unhandledDuring, type Process } from './bench.ts'
import { stores } from './stores.ts'

for (const store of stores('etcd')) {
  describe(`Authority on ${store.name}`, () => {
    /** Of leases that lapse in the course of a test. */
    const brief = store.briefMs
    /** Of leases that do not lapse, however slow the machine. */
    const lasting = 1000 * brief
    /** Of leases that do not lapse either. With the time in the hand of the test they are brief, so that more is tried. */
    const kept = store.exact ? brief : lasting
    let bench: Bench
    let here: Process
    let there: Process

    before(() => store.open())
    after(() => store.close())
    beforeEach(begin)
    afterEach(() => bench.close())

    /** Opens a bench, with two processes at it. */
    async function begin(): Promise<Bench> {
      await bench?.close()
      bench = new Bench(store)
      here = bench.process()
      there = bench.process()
      return bench
    }

    /** A candidate for the lease `l`. */
    function candidate(process: Process, options: Partial<AuthorityOptions> = {}): Authority {
      return bench.own(
        new Authority({
          manager: process.manager,
          lease: 'l',
          ttl: lasting,
          heartbeatInterval: store.momentMs / 12,
          clock: store.clock,
          ...options,
        }),
      )
    }

    function told(authority: Authority): string[] {
      return record<AuthorityEvents>(authority, {
        ready: () => '',
        acquired: () => '',
        lost: ({ reason }) => reason,
        taken: ({ holder }) => holder ?? '',
        expired: ({ holder }) => holder,
        error: (error) => (error as Error).name,
      })
    }

    /** Another gets the lease in the middle of the holder's time, as if it had been overwritten. The holder hears of it on `resume()`. */
    async function steal(of: Process, ttl = lasting): Promise<void> {
      await bench.settled(of) // a read in flight might see that the lease was revoked, before the thief has it
      of.pause()
      await there.manager.revoke('l')
      await there.manager.claim('l', 'thief', ttl)
    }

    it('AU-2: without a name, two candidates are two holders, by random UUIDs', async () => {
      const [a, b] = [candidate(here), candidate(there)]
      expect(a.holder)
        .to.match(/^[0-9a-f]{8}-[0-9a-f]{4}-4/)
        .and.not.equal(b.holder)
      expect([await a.ready(), await b.ready()]).to.deep.equal([true, false])
      expect((await there.manager.leases()).get('l')?.holder).to.equal(a.holder)
    })

    it('AU-4: what is passed in is not changed, and one manager serves many', async () => {
      Object.freeze(here.manager)
      const [a, b] = [candidate(here), candidate(here)]
      expect(await a.ready()).to.equal(true)
      expect(await b.ready()).to.equal(false)
      await a.release()
      await store.until('hand-over within one process', () => b.held)
    })

    it('AU-5: nothing begins before ready(), and nothing goes on after close()', async () => {
      const a = candidate(here, { ttl: kept })
      const b = candidate(there, { ttl: kept })
      await store.pass(store.momentMs)
      expect(here.sent).to.equal(0)
      await a.ready()
      await b.ready()
      await a.heartbeat()
      void a.heartbeat() // which sets a timer
      await Promise.all([a.close(), b.close()])
      await bench.settled()
      const sent = here.sent + there.sent
      await store.pass(store.momentMs)
      expect(here.sent + there.sent).to.equal(sent)
      await store.until('no lease', async () => (await there.manager.leases()).size === 0) // what was in flight is given back
    })

    it('AU-6: ready() says whether the lease was acquired', async () => {
      const [a, b] = [candidate(here), candidate(there)]
      const events = told(b)
      expect(await a.ready()).to.equal(true)
      expect(await b.ready()).to.equal(false)
      expect(events.slice(0, 2)).to.deep.equal(['ready', `taken ${a.holder}`])
      expect([a.held, b.held, b.standing]).to.deep.equal([true, false, true])
    })

    it('AU-6: ready() rejects when the store cannot be reached, and stands all the same', async () => {
      const a = candidate(here)
      here.cut = true
      await rejection(a.ready(), ErrUnknown)
      expect(a.standing).to.equal(true)
      here.cut = false
      await store.until('the line to be mended', () => a.held)
    })

    it('AU-7: ready() while holding is true, and nothing is taken', async () => {
      const a = candidate(here)
      const events = told(a)
      await a.ready()
      expect(await a.ready()).to.equal(true)
      await store.pass(0)
      expect(events).to.deep.equal(['ready', 'acquired'])
    })

    it('AU-8: the next is granted it when it is released, long before it would lapse', async () => {
      const a = candidate(here)
      const b = candidate(there)
      await a.ready()
      await b.ready()
      await bench.settled(there)
      await a.release()
      await store.until('hand-over', () => b.held)
    })

    it('AU-8: the next is granted it when it lapses', async () => {
      const [a, b] = [candidate(here, { ttl: brief }), candidate(there)]
      await a.ready({ wait: true })
      await b.ready()
      here.pause() // for ever
      await store.until('hand-over', () => b.held)
      expect(a.held).to.equal(false)
      here.resume()
    })

    it('AU-8: it is free again when it is deleted, and anyone who had it is a candidate like the others', async () => {
      const a = candidate(here)
      const b = candidate(there)
      await a.ready()
      await b.ready()
      const { fencingToken: first = 0n } = a
      await bench.process().manager.revoke('l')
      const terms = (): bigint[] => [a, b].map(({ fencingToken = 0n }) => fencingToken).filter((term) => term > first)
      await store.until('one of them to get it', () => terms().length > 0)
      expect([terms().length, a.standing, b.standing]).to.deep.equal([1, true, true])
    })

    it('AU-8: of many who wait, one at a time has it, and an idle one sends next to nothing', async () => {
      const a = candidate(here)
      await a.ready()
      const waiting = [there, bench.process(), bench.process(), bench.process()]
      const others = waiting.map((process) => candidate(process))
      for (const one of others) expect(await one.ready()).to.equal(false)
      expect(await bench.unprompted(waiting), 'a lease of minutes: nothing to ask for').to.deep.equal([])
      await a.release()
      await store.until('hand-over', () => others.some((one) => one.held))
      expect(others.filter((one) => one.held)).to.have.length(1)
      if (!store.exact) return // a refused waiter that is not next in the queue asks again while the next one is slow
      const attempts = waiting.map(({ counts }) => counts['claimLease'] ?? 0)
      expect(Math.max(...attempts), 'no herd: each tries a few times at the most').to.be.at.most(8)
    })

    it('AU-9: release() gives it up at once; again, or without a lease, it does nothing', async () => {
      const a = candidate(here)
      await a.release()
      expect(here.sent).to.equal(0)
      await a.ready()
      await Promise.all([a.release(), a.release()])
      expect((await there.manager.leases()).size).to.equal(0)
      await a.release()
      expect(here.counts['releaseLease']).to.equal(1)
      expect([a.held, a.standing]).to.deep.equal([false, false])
    })

    it('AU-9: to release what another has by now is no error', async () => {
      const a = candidate(here)
      await a.ready()
      await steal(here)
      const released = a.release()
      here.resume()
      await released
      expect((await there.manager.leases()).get('l')?.holder).to.equal('thief')
    })

    it('AU-9: a release that could not be sent is reported as unknown, and the lease is not relied on', async () => {
      const a = candidate(here)
      await a.ready()
      const { signal } = a
      here.cut = true
      await rejection(a.release(), ErrUnknown)
      expect([a.held, signal.aborted]).to.deep.equal([false, true])
    })

    it('AU-10: release() also ends the waiting', async () => {
      const [a, b] = [candidate(here), candidate(there)]
      await a.ready()
      await b.ready()
      await b.release()
      await a.release()
      await store.pass(store.momentMs)
      expect(b.held).to.equal(false)
      expect((await there.manager.leases()).size).to.equal(0)
    })

    it('AU-10: a release overtakes an attempt that is out: nothing is held afterwards', async () => {
      const a = candidate(here)
      here.pause()
      const ready = a.ready()
      await store.pass(0)
      const released = a.release()
      here.resume()
      expect(await ready).to.equal(false)
      await released
      await store.until('the grant to be given back', async () => (await there.manager.leases()).size === 0)
      expect(a.held).to.equal(false)
    })

    it('AU-10: a release overtakes an extension that is out: it does not stand again for it', async () => {
      const a = candidate(here)
      await a.ready()
      here.pause()
      const extended = a.extend()
      await store.pass(0)
      const released = a.release()
      here.resume()
      expect(await extended).to.equal(false)
      await released
      expect(a.standing).to.equal(false)
      expect((await there.manager.leases()).size).to.equal(0)
    })

    it('AU-10: ready() while a release is out takes its turn after it: a new term, and no loss', async () => {
      const a = candidate(here)
      const events = told(a)
      await a.ready()
      const { fencingToken = 0n } = a
      here.pause()
      const released = a.release()
      const ready = a.ready()
      await store.pass(0)
      here.resume()
      await released
      expect(await ready).to.equal(true)
      await store.pass(store.momentMs)
      expect((a.fencingToken ?? 0n) > fencingToken).to.equal(true)
      expect(events).to.deep.equal(['ready', 'acquired', 'ready', 'acquired'])
    })

    it('AU-11: to release is not to lose', async () => {
      const a = candidate(here)
      const events = told(a)
      await a.ready()
      const { signal } = a
      await a.release()
      await store.pass(store.momentMs)
      expect(events).to.deep.equal(['ready', 'acquired'])
      expect(signal.aborted).to.equal(true)
      expect(signal.reason).not.to.be.instanceOf(ErrLost)
    })

    it('AU-12: extend() of one who does not stand is ready()', async () => {
      const a = candidate(here)
      const b = candidate(there)
      expect(await a.extend()).to.equal(true)
      expect(await b.extend()).to.equal(false)
      expect(b.standing).to.equal(true)
      await a.release()
      await store.until('hand-over', () => b.held)
      expect(await a.extend(), 'stands again after a release').to.equal(false)
      expect(a.standing).to.equal(true)
    })

    it('AU-12: extend() after a loss stands again', async () => {
      const a = candidate(here, { ttl: brief })
      await a.ready({ wait: true })
      await store.until('the lease to lapse', () => !a.held)
      expect(a.standing).to.equal(false)
      expect(await a.extend()).to.equal(true)
    })

    it('AU-13: extend() of one who waits does nothing', async () => {
      const [a, b] = [candidate(here), candidate(there)]
      await a.ready()
      await b.ready()
      expect(await b.extend()).to.equal(false)
      expect(there.counts['extendLease'] ?? 0).to.equal(0)
    })

    it('AU-14: extend() keeps the lease, in one term, with its value', async () => {
      const a = candidate(here, { ttl: kept, value: 'v' })
      const events = told(a)
      await a.ready()
      const { fencingToken } = a
      const expiryMs = async (): Promise<number> => (await there.manager.leases()).get('l')?.expiry.toMillis() ?? 0
      for (let step = 0; step < 4; step++) {
        const beforeMs = await expiryMs()
        await store.pass(store.exact ? brief / 3 : 1)
        await store.until('a later expiry', async () => {
          expect(await a.extend()).to.equal(true)
          return (await expiryMs()) > beforeMs
        })
      }
      expect(a.fencingToken).to.equal(fencingToken)
      expect((await there.manager.leases()).get('l')).to.include({ holder: a.holder, value: 'v', fencingToken })
      expect(events).to.deep.equal(['ready', 'acquired'])
    })

    it('AU-15: extend() that finds it deleted tries for it again at once', async () => {
      const a = candidate(here)
      const events = told(a)
      await a.ready()
      const { fencingToken = 0n } = a
      await bench.settled(here)
      here.pause()
      await there.manager.revoke('l')
      const extended = a.extend()
      here.resume()
      expect(await extended).to.equal(true)
      expect(a.fencingToken !== undefined && a.fencingToken > fencingToken).to.equal(true)
      expect(events).to.deep.equal(['ready', 'acquired', 'lost revoked', 'acquired'])
    })

    it('AU-16: extend() that finds another tells of the loss, and stands', async () => {
      const a = candidate(here)
      const events = told(a)
      await a.ready()
      await steal(here)
      const extended = a.extend()
      here.resume()
      expect(await extended).to.equal(false)
      expect(a.standing).to.equal(true)
      expect(events).to.deep.equal(['ready', 'acquired', 'lost taken', 'taken thief'])
      await there.manager.release('l', 'thief')
      await store.until('its turn to come again', () => a.held)
    })

    it('AU-17: heartbeats keep the lease, at most one extension in each interval, the last after the last call', async () => {
      const intervalMs = store.exact ? brief / 4 : store.momentMs
      const a = candidate(here, { ttl: kept, heartbeatInterval: intervalMs })
      const extensions = (): number => here.counts['extendLease'] ?? 0
      await a.ready()
      const startedMs = store.clock.monotonic()
      const inTime = (): number => Math.ceil((store.clock.monotonic() - startedMs) / intervalMs) + 1
      await store.until('extensions beyond the first ttl', async () => {
        for (let step = 0; step < 5; step++) {
          void a.heartbeat()
          void a.heartbeat()
          await store.pass(intervalMs / 5)
        }
        expect(extensions()).to.be.at.most(inTime())
        return extensions() >= 5
      })
      expect(a.held).to.equal(true)
      const sent = extensions()
      void a.heartbeat()
      await store.until('the last one', () => extensions() > sent)
      await store.pass(2 * intervalMs)
      await bench.settled(here)
      const after = extensions()
      expect(after).to.be.at.most(store.exact ? sent + 2 : inTime())
      await store.pass(2 * intervalMs)
      expect(extensions(), 'no timer of its own').to.equal(after)
    })

    it('AU-17: the first heartbeat extends at once, and all in between share the outcome of the latest', async () => {
      const a = candidate(here, { heartbeatInterval: 2 * store.momentMs })
      await a.ready()
      const first = a.heartbeat()
      expect(a.heartbeat()).to.equal(first)
      expect(await first).to.equal(true)
      expect(here.counts['extendLease']).to.be.oneOf(store.exact ? [1] : [1, 2]) // after a slow answer the next is due
      await store.until('the trailing one', () => (here.counts['extendLease'] ?? 0) >= 2)
      expect(a.heartbeat()).not.to.equal(first)
    })

    it('AU-17: who stops working loses it, and anyone who works on does not', async () => {
      const a = candidate(here, { ttl: brief })
      const events = told(a)
      await a.ready({ wait: true })
      const extensions = here.counts['extendLease'] // a grant that arrived too late was claimed once more, which extends it
      if (store.exact) expect(extensions).to.equal(undefined)
      await store.until('the loss', () => events.includes('lost expired'))
      expect(here.counts['extendLease']).to.equal(extensions)
    })

    it('AU-17: work that goes on after a loss stands again; after a release it does not', async () => {
      const a = candidate(here, { ttl: brief })
      await a.ready({ wait: true })
      await store.until('the loss', () => !a.held)
      expect(await a.heartbeat()).to.equal(true)
      void a.heartbeat()
      await a.release()
      expect(await a.heartbeat()).to.equal(false)
      await store.pass(store.momentMs)
      expect([a.standing, a.held]).to.deep.equal([false, false])
    })

    it('AU-17: a heartbeat that fails is no unhandled rejection', async () => {
      const a = candidate(here)
      await a.ready()
      here.cut = true
      const unhandled = await unhandledDuring(async () => {
        void a.heartbeat()
        void a.heartbeat()
        await store.pass(store.momentMs)
        await a.close()
        void a.heartbeat()
      })
      expect(unhandled).to.deep.equal([])
    })

    it('AU-18: every acquisition is notified, the second as the first', async () => {
      const a = candidate(here)
      const events = told(a)
      await a.ready()
      await a.release()
      await a.ready()
      await there.manager.revoke('l')
      await store.until('it to get it back', () => events.filter((one) => one === 'acquired').length >= 3)
    })

    it('AU-19: a lease that ran out is reported as expired, and not tried for again', async () => {
      const a = candidate(here, { ttl: brief })
      const losses: unknown[] = []
      a.on('lost', (loss) => losses.push(loss))
      await a.ready({ wait: true })
      const { signal, fencingToken } = a
      await store.until('the loss', () => losses.length > 0)
      expect(losses[0]).to.include({ reason: 'expired', expired: true, fencingToken })
      expect(signal.reason).to.be.instanceOf(ErrLost)
      await store.until('it to lapse', async () => (await there.manager.leases()).size === 0)
      await store.pass(store.momentMs)
      expect([a.standing, a.held, losses.length]).to.deep.equal([false, false, 1])
    })

    it('AU-19: a lease that was deleted is reported as revoked, and acquired again', async () => {
      const a = candidate(here)
      const events = told(a)
      await a.ready()
      await there.manager.revoke('l')
      await store.until('it to get it back', () => a.held && events.length >= 4)
      expect(events).to.deep.equal(['ready', 'acquired', 'lost revoked', 'acquired'])
    })

    it('AU-19: a store that is out of reach is reported as unreachable, and tried for again when it is back', () =>
      undisturbed(brief, begin, async (ttl) => {
        const a = candidate(here, { ttl })
        const events = told(a)
        await a.ready()
        here.cut = true
        const beating = async (): Promise<boolean> => {
          await a.heartbeat().catch(() => {})
          return events.some((one) => one.startsWith('lost'))
        }
        await store.until('the loss', beating)
        expect(events).to.deep.equal(['ready', 'acquired', 'lost unreachable'])
        expect(a.standing).to.equal(true)
        const before = events.length
        here.cut = false
        await store.until('it to get it back', () => events.slice(before).includes('acquired'))
      }))

    it('AU-20: a theft is notified, and the candidate is back when the thief lets go', async () => {
      const a = candidate(here)
      const events = told(a)
      await a.ready()
      await steal(here, kept)
      here.resume()
      await store.until('it to be notified', () => events.includes('taken thief'))
      expect(events).to.deep.equal(['ready', 'acquired', 'lost taken', 'taken thief'])
      if (!store.exact) await there.manager.release('l', 'thief') // a test that owns the time lets it lapse
      await store.until('its turn to come again', () => a.held)
    })

    it("AU-21: logs can tell when it stands, when another has it, and when another's lease lapsed", async () => {
      const events: string[] = []
      await store.until('it to be notified', async () => {
        // The answers of a store that is slow may be too old to tell a lapse from a release; not all of them are.
        const a = candidate(here, { ttl: brief, holder: 'a' })
        const b = candidate(there, { holder: 'b' })
        events.splice(0)
        b.on('ready', () => events.push('ready'))
          .on('taken', ({ holder }) => events.push(`taken ${holder}`))
          .on('expired', ({ holder }) => events.push(`expired ${holder}`))
        await a.ready({ wait: true })
        await b.ready()
        await store.until('hand-over', () => b.held)
        await store.until('b to see itself', () => b.leader?.holder !== 'a')
        await b.close()
        return events.length > 2
      })
      expect(events).to.deep.equal(['ready', 'taken a', 'expired a'])
    })

    it("AU-21: another's release is not reported as expired", () =>
      undisturbed(brief, begin, async (ttl) => {
        const a = candidate(here, { ttl, holder: 'a' })
        const b = candidate(there, { holder: 'b' })
        const events = told(b)
        await a.ready()
        await b.ready()
        await store.until('b to see a', () => b.leader !== undefined)
        const first = b.leader?.expiry ?? DateTime.now()
        await store.until('its first expiry to be past, and the known one far away', async () => {
          expect(await a.extend()).to.equal(true)
          const { holder, expiry = first } = b.leader ?? {}
          return holder === 'a' && expiry > first && expiry.toMillis() - store.clock.now() > ttl / 2
        })
        await a.release()
        await store.until('b to see itself', () => b.leader?.holder === 'b')
        expect(events).to.deep.equal(['ready', 'taken a', 'acquired'])
      }))

    it('AU-22: its state can be read at any time', async () => {
      const a = candidate(here, { holder: 'a' })
      const state = (): unknown => [a.standing, a.held, a.fencingToken !== undefined, a.signal.aborted]
      expect(state()).to.deep.equal([false, false, false, true])
      expect(a.signal.reason).to.be.instanceOf(ErrNotHeld)
      await a.ready()
      expect(state()).to.deep.equal([true, true, true, false])
      expect(a.token).to.include({ lease: 'l', holder: 'a' })
      expect((await a.token.check()).fencingToken).to.equal(a.fencingToken)
      await a.release()
      expect(state()).to.deep.equal([false, false, false, true])
      expect(a.leader).to.equal(undefined)
    })

    it('AU-23: attempts in the background that fail are repeated with pauses, and nothing is unhandled', async () => {
      const [a, b] = [candidate(here), candidate(there)]
      await a.ready()
      await b.ready()
      await bench.settled(there) // what it sent first must not be in flight when the lease is released
      const unhandled = await unhandledDuring(async () => {
        there.cut = true
        await a.release()
        await store.until('attempts that failed', () => there.failures >= 3)
        if (store.exact) await store.pass(store.momentMs)
        expect(b.standing).to.equal(true)
        if (store.exact) expect(there.sent, 'with pauses').to.be.lessThan(60)
        there.cut = false
        await store.until('it to be granted', () => b.held)
      })
      expect(unhandled).to.deep.equal([])
    })

    it('AU-23: a manager that is stopped ends the candidacy: reported, and nothing is unhandled', async () => {
      const [a, b] = [candidate(here), candidate(there)]
      const [ofA, ofB] = [told(a), told(b)]
      await a.ready()
      await b.ready()
      const waiting = b.ready({ wait: true })
      const unhandled = await unhandledDuring(async () => {
        await Promise.all([here.manager.stop(), there.manager.stop()])
        await rejection(waiting, ErrStopped)
        await store.until(
          'both to be notified',
          () => ofA.includes('error ErrStopped') && ofB.includes('error ErrStopped'),
        )
      })
      expect(unhandled).to.deep.equal([])
      expect(ofA).to.deep.equal(['ready', 'acquired', 'lost unreachable', 'error ErrStopped'])
      expect([a.standing, b.standing]).to.deep.equal([false, false])
      await rejection(a.ready(), ErrStopped)
    })

    it('AU-24: fencing tokens rise from one to the next', async () => {
      const [a, b] = [candidate(here), candidate(there)]
      await a.ready()
      await b.ready()
      const { fencingToken = 0n } = a
      const acquired: bigint[] = []
      b.on('acquired', (term) => acquired.push(term.fencingToken))
      await a.release()
      await store.until('hand-over', () => acquired.length > 0)
      expect(b.fencingToken).to.equal(acquired[0])
      expect(acquired[0] !== undefined && acquired[0] > fencingToken).to.equal(true)
    })

    it('AU-24: one can wait until it is acquired, or until the signal aborts', async () => {
      const [a, b] = [candidate(here), candidate(there)]
      await a.ready()
      const patience = new AbortController()
      const inVain = b.ready({ wait: true, signal: patience.signal })
      const waiting = b.ready({ wait: true })
      await store.pass(store.momentMs)
      patience.abort(new Error('no patience'))
      expect((await rejection(inVain, Error)).message).to.equal('no patience')
      await a.release()
      expect(await bench.within(waiting)).to.equal(true)
      const third = candidate(here)
      const ended = third.ready({ wait: true })
      await store.pass(store.momentMs)
      await third.release()
      expect(await ended).to.equal(false)
    })

    it('AU-24: those who stand know who has it and with which value', async () => {
      const a = candidate(here, { holder: 'a', value: 'http://a' })
      const b = candidate(there, { holder: 'b', value: 'http://b' })
      await a.ready()
      await b.ready()
      await store.until('b to know a', () => b.leader?.holder === 'a')
      expect(b.leader?.value).to.equal('http://a')
      await a.release()
      await store.until('b to know itself', () => b.leader?.holder === 'b')
      expect(b.leader?.value).to.equal('http://b')
    })

    it('AU-24: every call that waits rejects with the reason of its signal', async () => {
      const a = candidate(here)
      const reason = new Error('gone')
      const signal = AbortSignal.abort(reason)
      for (const call of [a.ready({ signal }), a.extend({ signal }), a.release({ signal })]) {
        expect(await rejection(call, Error)).to.equal(reason)
      }
      expect(here.sent).to.equal(0)
    })

    it('of many that come and go, at most one is held at any instant', async () => {
      const processes = [here, there, bench.process(), bench.process()]
      const candidates = processes.map((process) => candidate(process, { ttl: store.exact ? 2 * brief : lasting }))
      let most = 0
      const tokens: bigint[] = []
      for (const one of candidates) {
        one.on('acquired', ({ fencingToken }) => {
          tokens.push(fencingToken)
          most = Math.max(most, candidates.filter(({ held }) => held).length)
        })
      }
      await Promise.all(candidates.map((one) => one.ready()))
      for (let turn = 0; turn < 8; turn++) {
        await store.until('one to have it', () => candidates.some(({ held }) => held))
        const holder = candidates.find(({ held }) => held)
        await holder?.release()
        await holder?.ready()
      }
      expect(most).to.equal(1)
      expect(tokens, 'each term its own').to.deep.equal([...new Set(tokens)].toSorted((a, b) => (a < b ? -1 : 1)))
    })

    it('calls after close() are ErrStopped; close() is idempotent', async () => {
      const a = candidate(here)
      await a.ready()
      expect(a.close()).to.equal(a.close())
      await a.close()
      for (const call of [() => a.ready(), () => a.extend(), () => a.heartbeat()]) await rejection(call(), ErrStopped)
      await a.release()
      expect(a.held).to.equal(false)
    })

    it('`await using` gives the lease up', async () => {
      {
        await using a = new Authority({
          manager: here.manager,
          lease: 'l',
          ttl: lasting,
          heartbeatInterval: 1,
          clock: store.clock,
        })
        expect(await a.ready()).to.equal(true)
      }
      expect((await there.manager.leases()).size).to.equal(0)
    })
  })
}

describe('Authority: the first call after a pause that outlasted its term', () => {
  let clock: TestClock
  let manager: Manager
  let authority: Authority

  beforeEach(async () => {
    clock = new TestClock()
    manager = new Manager({ client: memoryClient({ clock }), clock })
    authority = new Authority({ manager, lease: 'l', ttl: 15_000, clock })
    expect(await authority.ready({ wait: true })).to.equal(true)
    await clock.settle()
  })
  afterEach(async () => {
    await authority.close()
    await manager.stop()
  })

  for (const wait of [true, false]) {
    it(`ready({ wait: ${wait} }) stands again and acquires the lease`, async () => {
      const pause = clock.pause(60_000) // the clocks have moved, and nothing has run yet
      const ready = track(authority.ready({ wait }))
      await pause
      await clock.settle()
      expect([ready.state, ready.value, authority.held]).to.deep.equal(['fulfilled', true, true])
    })
  }

  it('`standing` is false: nothing extended the lease in time', async () => {
    const pause = clock.pause(60_000)
    expect([authority.standing, authority.held]).to.deep.equal([false, false])
    await pause
  })

  for (const wait of [true, false]) {
    it(`over a manager that throws, ready({ wait: ${wait} }) rejects with what it threw`, async () => {
      const thrown = new Error('no such manager')
      const hold = (): never => {
        throw thrown
      }
      const throwing = { hold, observe: manager.observe.bind(manager), token: manager.token.bind(manager) }
      const other = new Authority({ manager: throwing, lease: 'l', clock })
      expect(await rejection(other.ready({ wait }), Error)).to.equal(thrown)
      expect(other.standing).to.equal(false)
      await other.close()
    })
  }
})

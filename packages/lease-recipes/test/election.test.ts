import { expect } from 'chai'
import { ErrLost, ErrNotHeld, ErrNotValid, ErrStopped, ErrUnknown } from 'lease-core'
import { election, type ElectionNode, type Leader, type NodeEvents, type NodeOptions } from '#src/election.ts'
import { whileLive } from 'lease-core/testing'
import { Bench, record, rejection, undisturbed, unhandledDuring, type Process } from './bench.ts'
import { stores } from './stores.ts'

for (const store of stores('cluster')) {
  describe(`Election on ${store.name}`, () => {
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

    function node(process: Process, options: Partial<NodeOptions> = {}): ElectionNode {
      const { id = 'a' } = options
      const locker = election({ manager: process.manager, clock: store.clock })
      return bench.own(locker({ path: '/master', id, value: `value of ${id}`, ttl: lasting, ...options }))
    }

    function watcher(process: Process): ElectionNode {
      return bench.own(
        election({ manager: process.manager, clock: store.clock })({ path: '/master', candidate: false }),
      )
    }

    function told(one: ElectionNode, ...but: (keyof NodeEvents)[]): string[] {
      const all = {
        change: (value?: string, id?: string) => `${value} ${id}`,
        select: (value: string, id: string) => `${value} ${id}`,
        deselect: ({ reason }: { reason: string }) => reason,
        refresh: (value: string, id: string) => `${value} ${id}`,
        ping: (value: string | undefined, id: string) => `${value} ${id}`,
        error: (error: unknown) => (error as Error).name,
      }
      for (const name of but) delete (all as Partial<typeof all>)[name]
      return record<NodeEvents>(one, all)
    }

    it('LO-2: both documented ways to make a node compete for the same', async () => {
      const locker = election({ manager: here.manager, clock: store.clock })
      const a = bench.own(locker({ path: '/master', value: '10', id: 'a', ttl: kept }))
      const b = bench.own(locker('/master', { value: '20', id: 'b', ttl: kept }))
      await a.start()
      await b.start()
      expect([a.isSelected(), b.isSelected(), b.id(), b.value()]).to.deep.equal([true, false, 'a', '10'])
    })

    it('LO-4: without an id, two nodes are two', async () => {
      const locker = election({ manager: here.manager, clock: store.clock })
      const [a, b] = [
        bench.own(locker('/x', { value: 'a', ttl: kept })),
        bench.own(locker('/x', { value: 'b', ttl: kept })),
      ]
      await a.start()
      await b.start()
      expect(a.localId).not.to.equal(b.localId)
      expect(b.id()).to.equal(a.localId)
    })

    it('LO-5: value and id are what they were, whatever is in them', async () => {
      const value = ':::ten:::10 # ☃'
      const a = node(here, { id: 'a:::b', value })
      const b = node(there, { id: 'b' })
      await a.start()
      await b.start()
      expect([b.id(), b.value()]).to.deep.equal(['a:::b', value])
      expect((await there.manager.leases()).get('/master')).to.include({ holder: 'a:::b', value })
    })

    it('LO-6: who leads, with which value, and who this is, can be read at any time', async () => {
      const a = node(here)
      const b = node(there, { id: 'b' })
      const state = (one: ElectionNode): unknown => [
        one.id(),
        one.value(),
        one.localId,
        one.localValue,
        one.isSelected(),
      ]
      expect(state(a)).to.deep.equal([undefined, undefined, 'a', 'value of a', false])
      await a.start()
      await b.start()
      expect(state(a)).to.deep.equal(['a', 'value of a', 'a', 'value of a', true])
      expect(state(b)).to.deep.equal(['a', 'value of a', 'b', 'value of b', false])
      expect(b.leader).to.deep.equal({ id: 'a', value: 'value of a', fencingToken: a.fencingToken })
      await a.stop()
      expect(state(a)).to.deep.equal([undefined, undefined, 'a', 'value of a', false])
    })

    it('LO-7: start() resolves when the leader is known; started once is started', async () => {
      const a = node(here)
      const starts = [a.start(), a.start()]
      await Promise.all(starts)
      await a.start()
      expect(a.isSelected()).to.equal(true)
      expect(here.counts['claimLease']).to.equal(1)
    })

    it('LO-7: start() waits for a store that is out of reach, and ends with stop()', async () => {
      const a = node(here)
      here.cut = true
      const start = a.start()
      const impatient = a.start({ signal: AbortSignal.abort(new Error('no patience')) })
      expect((await rejection(impatient, Error)).message).to.equal('no patience')
      await store.until('attempts that failed', () => here.failures >= 2)
      expect(a.id()).to.equal(undefined)
      here.cut = false
      await bench.within(start)
      expect(a.isSelected()).to.equal(true)

      const b = node(there, { id: 'b' })
      there.cut = true
      const unhandled = await unhandledDuring(async () => {
        void b.start() // as the seed did
        const inVain = b.start()
        await store.until('attempts that failed', () => there.failures >= 2)
        await b.stop()
        await rejection(inVain, ErrStopped)
      })
      expect(unhandled).to.deep.equal([])
    })

    it('LO-8: who joins late knows the leader and its value at once', async () => {
      const a = node(here)
      await a.start()
      await bench.settled(here)
      const late = [node(there, { id: 'b' }), watcher(bench.process())]
      for (const one of late) {
        const events = told(one)
        await one.start()
        expect([one.id(), one.value()]).to.deep.equal(['a', 'value of a'])
        await store.pass(0)
        expect(events.slice(0, 2)).to.deep.equal(['change value of a a', 'ping value of a a'])
        expect(events.slice(2).filter((event) => !event.startsWith('ping'))).to.deep.equal([])
      }
    })

    it('LO-9: who wins at once is notified of its own election, and of its end', async () => {
      for (let round = 0; round < 5; round++) {
        const a = node(here, { id: `a${round}`, value: 'v' })
        // A second read shows the same lease, and on a server perhaps a later expiry.
        const events = store.exact ? told(a, 'ping') : told(a, 'ping', 'refresh')
        await a.start()
        await a.stop()
        expect(events).to.deep.equal([`change v a${round}`, `select v a${round}`, 'deselect stopped'])
      }
    })

    it('LO-10: every change is reported to every node, no matter who wrote it', async () => {
      const [a, b] = [node(here), node(there, { id: 'b' })]
      const c = watcher(bench.process())
      const events = [b, c].map((one) => told(one, 'ping', 'refresh', 'select'))
      await a.start()
      await b.start()
      await c.start()
      await a.update('new')
      await store.until('news of the value', () => [b, c].every((one) => one.value() === 'new'))
      await a.stop()
      await store.until('news of the next', () => [b, c].every((one) => one.id() === 'b'))
      await store.pass(0)
      for (const list of events) {
        const changes = list.filter((one) => one !== 'change undefined undefined') // the time between two may be seen
        expect(changes).to.deep.equal(['change value of a a', 'change new a', 'change value of b b'])
      }
    })

    it('LO-10: a change by a stranger that is no node of an election is reported as well', async () => {
      const c = watcher(here)
      await c.start()
      expect(c.id()).to.equal(undefined)
      const attempt = async (ttl: number): Promise<void> => {
        const lapsedMs = store.clock.monotonic() + ttl
        await there.manager.claim('/master', 'stranger', ttl, { value: 'strange', announce: true })
        await store.until('news of it', () => c.id() === 'stranger' || store.clock.monotonic() > lapsedMs)
        expect([c.id(), c.value()]).to.deep.equal(['stranger', 'strange'])
      }
      await whileLive(brief, attempt, store.clock)
      await store.until('it to lapse', () => c.id() === undefined)
    })

    it('LO-11: select tells that this node leads, and gives the term', async () => {
      const a = node(here)
      const terms: unknown[] = []
      a.on('select', (value, id, { fencingToken, signal, token }) => {
        terms.push([value, id, fencingToken === a.fencingToken, signal === a.signal, token.holder])
      })
      await a.start()
      expect(terms).to.deep.equal([['value of a', 'a', true, true, 'a']])
    })

    it('LO-12: who cannot renew in time relinquishes by itself, and competes again', () =>
      undisturbed(brief, begin, async (ttl) => {
        const a = node(here, { ttl })
        const events = told(a, 'ping', 'refresh')
        await a.start()
        const { signal } = a
        here.cut = true
        await store.until('it to relinquish', () => !a.isSelected())
        await store.pass(0)
        expect(signal.reason).to.be.instanceOf(ErrLost)
        expect(events).to.deep.equal([
          'change value of a a',
          'select value of a a',
          'change undefined undefined',
          'deselect unreachable',
        ])
        here.cut = false
        await store.until('it to be elected again', () => a.isSelected())
        expect(a.id()).to.equal('a')
      }))

    it('LO-12: another takes over from a node that is cut off, and only then', async () => {
      const [a, b] = [node(here, { ttl: brief }), node(there, { id: 'b' })]
      let both = false
      b.on('select', () => (both ||= a.isSelected()))
      await a.start()
      await b.start()
      here.cut = true
      await store.until('the other to take over', () => b.isSelected())
      await store.pass(0)
      expect([a.isSelected(), both]).to.deep.equal([false, false])
      here.cut = false
      await store.until('the first to hear of it', () => a.id() === 'b')
    })

    it('LO-13, LO-14: renewals are notified: refresh to the leader, ping to everyone', () =>
      undisturbed(brief, begin, async (ttl) => {
        const [a, b] = [node(here, { ttl }), node(there, { ttl, id: 'b' })]
        const [ofA, ofB] = [told(a), told(b)]
        await a.start()
        await b.start()
        const count = (list: string[], what: string): number => list.filter((one) => one === what).length
        await store.until('two of each', () => {
          expect(a.isSelected()).to.equal(true)
          return (
            count(ofA, 'refresh value of a a') >= 2 &&
            count(ofA, 'ping value of a a') >= 2 &&
            count(ofB, 'ping value of a a') >= 2
          )
        })
        expect(count(ofB, 'refresh value of a a')).to.equal(0)
        expect(count(ofB, 'change value of a a')).to.equal(1)
      }))

    it('LO-15: when the manager is stopped, the node is: reported by error, without a listener no crash', async () => {
      const [a, b, c] = [node(here), node(there, { id: 'b' }), watcher(there)]
      const [ofA, ofB] = [told(a, 'ping', 'refresh'), told(b, 'ping', 'refresh')]
      await a.start()
      await b.start()
      await c.start()
      const unhandled = await unhandledDuring(async () => {
        await Promise.all([here.manager.stop(), there.manager.stop()])
        await store.until('all to be stopped', () => [a, b, c].every(({ started }) => !started))
      })
      expect(unhandled).to.deep.equal([])
      expect(ofA.slice(2)).to.deep.equal(['change undefined undefined', 'deselect unreachable', 'error ErrStopped'])
      expect(ofB).to.deep.equal(['change value of a a', 'error ErrStopped'])
      expect([a, b, c].map((one) => one.id())).to.deep.equal([undefined, undefined, undefined])
      await rejection(a.start(), ErrStopped)
    })

    it('LO-16: writes and reads that fail are repeated until they succeed', async () => {
      const [a, b] = [node(here), node(there, { id: 'b' })]
      const unhandled = await unhandledDuring(async () => {
        await a.start()
        there.cut = true
        const start = b.start()
        await store.until('attempts that failed', () => there.failures >= 2)
        there.cut = false
        await bench.within(start)
        await bench.settled(there)
        there.cut = true
        const failures = there.failures
        await a.stop()
        await store.until('attempts that failed', () => there.failures >= failures + 2)
        there.cut = false
        await store.until('the other to take over', () => b.isSelected())
      })
      expect(unhandled).to.deep.equal([])
    })

    it('LO-17: who leads goes on leading, in one term, for longer than its ttl', () =>
      undisturbed(brief, begin, async (ttl) => {
        const [a, b] = [node(here, { ttl }), node(there, { ttl, id: 'b' })]
        const events = told(a, 'ping', 'refresh')
        await a.start()
        await b.start()
        const { fencingToken } = a
        await store.pass(2.5 * ttl)
        expect(a.fencingToken).to.equal(fencingToken)
        expect(events).to.deep.equal(['change value of a a', 'select value of a a'])
        expect(here.counts['extendLease']).to.be.greaterThan(2)
      }))

    it('LO-18: when the lease is deleted, the next is elected at once', async () => {
      const nodes = [node(here), node(there, { id: 'b' }), node(bench.process(), { id: 'c' })]
      const events = told(nodes[0] as ElectionNode, 'ping', 'refresh', 'change')
      for (const one of nodes) await one.start()
      const { fencingToken = 0n } = nodes[0] as ElectionNode
      await bench.process().manager.revoke('/master')
      await store.until('somebody to be elected', () => nodes.some((one) => (one.fencingToken ?? 0n) > fencingToken))
      // A revoked leader may rely on its lease until it hears of that.
      await store.until('news of it', () => nodes.filter((one) => one.isSelected()).length === 1)
      await store.pass(0)
      expect(events[1], 'taken: another was quicker than the read').to.be.oneOf(['deselect revoked', 'deselect taken'])
    })

    it('LO-19: stop() gives the leadership up to the next at once, and leaves nothing', async () => {
      const [a, b] = [node(here, { ttl: kept }), node(there, { ttl: kept, id: 'b' })]
      await a.start()
      await b.start()
      const { signal } = a
      const stopped = a.stop()
      expect(a.stop()).to.equal(stopped)
      await stopped
      expect([a.isSelected(), a.started, signal.aborted]).to.deep.equal([false, false, true])
      expect(signal.reason).not.to.be.instanceOf(ErrLost)
      await store.until('the next to be elected', () => b.isSelected())
      await b.stop()
      await bench.settled()
      const sent = here.sent + there.sent
      await store.pass(store.momentMs)
      expect(here.sent + there.sent).to.equal(sent)
      expect((await here.manager.leases()).size).to.equal(0)
    })

    it('LO-19: a stopped node can be started again', async () => {
      const a = node(here)
      const events = told(a, 'ping', 'change')
      for (let round = 0; round < 3; round++) {
        await a.start()
        void a.stop()
      }
      await bench.within(a.start())
      await store.until('it to lead', () => a.isSelected())
      expect(events.filter((one) => one.startsWith('select'))).to.have.length(
        events.filter((one) => one.startsWith('deselect')).length + 1,
      )
    })

    it('LO-19: stop() while the store is out of reach resolves, and the lease lapses', async () => {
      const a = node(here, { ttl: brief })
      await a.start()
      here.cut = true
      await bench.within(a.stop())
      await store.until('it to lapse', async () => (await there.manager.leases()).size === 0)
    })

    it('LO-20: fencing tokens rise from leader to leader, and each node knows that of the leader', async () => {
      const [a, b] = [node(here), node(there, { id: 'b' })]
      await a.start()
      await b.start()
      const first = a.fencingToken ?? 0n
      await a.stop()
      await store.until('the next to be elected', () => b.isSelected())
      expect((b.fencingToken ?? 0n) > first).to.equal(true)
      expect(b.leader?.fencingToken).to.equal(b.fencingToken)
      expect((await b.token.check()).fencingToken).to.equal(b.fencingToken)
      expect(a.signal.reason).to.be.instanceOf(ErrNotHeld)
    })

    it('LO-20: failover: when its process stands still, another is elected', async () => {
      const [a, b] = [node(here, { ttl: brief }), node(there, { id: 'b' })]
      await a.start()
      await b.start()
      here.pause()
      await store.until('the other to be elected', () => b.isSelected())
      expect(a.isSelected()).to.equal(false)
      here.resume()
      await store.until('it to hear of it', () => a.id() === 'b')
    })

    it('resign() lets another lead, and goes on competing', async () => {
      const [a, b] = [node(here), node(there, { id: 'b' })]
      const events = told(a, 'ping', 'refresh', 'change')
      await a.start()
      await b.start()
      await a.resign()
      await a.resign() // not leading: nothing
      await store.until('the other to lead', () => b.isSelected() && a.id() === 'b')
      await b.resign()
      await store.until('it to lead again', () => a.isSelected())
      expect(events).to.deep.equal(['select value of a a', 'deselect resigned', 'select value of a a'])
    })

    it('resign() at once when selected: a former leader does not count as the present one', async () => {
      const [a, b] = [node(here), node(there, { id: 'b' })]
      const changes = told(b, 'ping', 'refresh')
      await a.start()
      await b.start()
      let resigned: Promise<void> | undefined
      b.once('select', () => (resigned = b.resign()))
      await a.resign()
      await store.until('the other to have led', () => changes.includes('deselect resigned'))
      await resigned
      await a.stop()
      // Between the two nobody led, and an observer may have seen that.
      if (changes[1] === 'change undefined undefined') changes.splice(1, 1)
      expect(changes.slice(0, 5)).to.deep.equal([
        'change value of a a',
        'change value of b b',
        'select value of b b',
        'change undefined undefined',
        'deselect resigned',
      ])
    })

    it('resign() when nobody else wants to: it leads again after a ttl', async () => {
      const a = node(here, { ttl: brief })
      let resignedMs: number | undefined
      let againMs: number | undefined
      a.on('select', () => {
        if (resignedMs !== undefined) againMs ??= store.clock.monotonic()
      })
      await a.start()
      await store.until('it to lead', () => a.isSelected()) // again, if it has lost its lease to a stall
      resignedMs = store.clock.monotonic()
      const resigned = a.resign()
      expect([a.isSelected(), a.id()]).to.deep.equal([false, undefined])
      await resigned
      await store.until('it to lead again', () => againMs !== undefined)
      expect((againMs ?? 0) - resignedMs).to.be.at.least(brief - 1)
    })

    it('resign() that could not be sent is reported as unknown; it does not lead all the same', async () => {
      const a = node(here)
      await a.start()
      here.cut = true
      await rejection(a.resign(), ErrUnknown)
      expect(a.isSelected()).to.equal(false)
    })

    it('update() while leading tells everyone at once, and while waiting it is written at the election', async () => {
      const [a, b] = [node(here), node(there, { id: 'b' })]
      await a.start()
      await b.start()
      await a.update('new of a')
      expect(a.value()).to.equal('new of a')
      await store.until('news of it', () => b.value() === 'new of a')
      await b.update('new of b')
      expect([b.localValue, b.value()]).to.deep.equal(['new of b', 'new of a'])
      const selected: string[] = []
      b.on('select', (value) => selected.push(value))
      await a.stop()
      await store.until('the next to lead', () => b.isSelected())
      expect(b.value()).to.equal('new of b')
      await store.pass(0)
      expect(selected).to.deep.equal(['new of b'])
      expect((await here.manager.leases()).get('/master')?.value).to.equal('new of b')
    })

    it('update() that could not be sent is reported as unknown', async () => {
      const a = node(here)
      await a.start()
      here.cut = true
      await rejection(a.update('new'), ErrUnknown)
      expect([a.localValue, a.value()]).to.deep.equal(['new', 'value of a'])
    })

    it('update() that finds the leadership lost is no error: the loss is reported, and the value is for the next time', async () => {
      const a = node(here)
      const events = told(a, 'ping', 'refresh', 'change')
      await a.start()
      await bench.settled(here) // a read in flight might see that the lease was revoked, before the thief has it
      here.pause()
      await there.manager.revoke('/master')
      await there.manager.claim('/master', 'thief', kept)
      const updated = a.update('new')
      here.resume()
      await updated
      await store.until('it to be notified', () => events.length >= 2)
      expect(events).to.deep.equal(['select value of a a', 'deselect taken'])
      if (!store.exact) await there.manager.release('/master', 'thief') // a test that owns the time lets it lapse
      await store.until('it to lead again', () => a.isSelected())
      expect(a.value()).to.equal('new')
    })

    it('a node that only watches is never selected', async () => {
      const c = watcher(there)
      const events = told(c)
      await c.start()
      await store.pass(store.momentMs)
      expect(events).to.deep.equal([])
      expect([c.isSelected(), c.id(), c.localValue]).to.deep.equal([false, undefined, undefined])
      await c.resign()
      await rejection(c.update('v'), ErrNotValid)
      expect((await here.manager.leases()).size).to.equal(0)
    })

    it('for await … of observe(): who leads now, and every change, without start()', async () => {
      const a = node(here)
      const b = node(there, { id: 'b' })
      const end = new AbortController()
      const seen: (Leader | undefined)[] = []
      const watching = (async () => {
        for await (const leader of b.observe({ signal: end.signal })) seen.push(leader)
      })()
      await store.until('that nobody leads', () => seen.length >= 1)
      await a.start()
      await store.until('the leader', () => seen.length >= 2)
      const { fencingToken = 0n } = a
      await here.manager.pin('/master', 'operator') // a change of the lease, but none of the leader
      await here.manager.unpin('/master', 'operator')
      await store.pass(store.momentMs)
      await a.update('new')
      await store.until('the new value', () => seen.length >= 3)
      await a.stop()
      await store.until('the end', () => seen.length >= 4)
      expect(seen).to.deep.equal([
        undefined,
        { id: 'a', value: 'value of a', fencingToken },
        { id: 'a', value: 'new', fencingToken },
        undefined,
      ])
      end.abort(new Error('enough'))
      expect((await rejection(watching, Error)).message).to.equal('enough')
    })

    it('idle nodes send next to nothing while another leads', async () => {
      const a = node(here)
      await a.start()
      const idle = [there, bench.process(), bench.process()]
      for (const [index, process] of idle.entries()) {
        await (index < 2 ? node(process, { id: `b${index}` }) : watcher(process)).start()
      }
      expect(await bench.unprompted(idle)).to.deep.equal([])
    })

    it('of many nodes that come and go, at most one is selected at any instant, and all agree in the end', async () => {
      const nodes = ['a', 'b', 'c', 'd'].map((id) =>
        node(bench.process(), { id, ttl: store.exact ? 2 * brief : lasting }),
      )
      let most = 0
      for (const one of nodes) {
        one.on('select', () => (most = Math.max(most, nodes.filter((other) => other.isSelected()).length)))
      }
      await bench.within(Promise.all(nodes.map((one) => one.start())))
      for (let turn = 0; turn < 6; turn++) {
        await store.until('one to lead', () => nodes.some((one) => one.isSelected()))
        const leader = nodes.find((one) => one.isSelected())
        if (turn % 2 === 0) await leader?.resign()
        else await leader?.stop()
        void leader?.start()
      }
      await store.until('all to agree', () => {
        const leader = nodes.find((one) => one.isSelected())
        return leader !== undefined && nodes.every((one) => one.id() === leader.localId)
      })
      expect(most).to.equal(1)
    })
  })
}

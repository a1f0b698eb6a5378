import { expect } from 'chai'
import { ErrLost, ErrNotHeld, type Held, type Manager } from 'lease-core'
import { track } from 'lease-core/testing'
import { using, type Outcome, type Run, type RunScope } from 'lease-recipes'
import { DateTime } from 'luxon'
import { Fleet, minute, type Process } from './once-per.fixture.ts'
import { replaced } from './store-events.ts'
import { stores } from './stores.ts'

const lasting = { minutes: 10 }

for (const store of stores('postgres')) {
  describe(`OncePer on ${store.name}`, () => {
    let fleet: Fleet
    /** Which slots ran, in order. */
    let runs: string[]

    before(() => store.open())
    after(() => store.close())
    beforeEach(() => {
      fleet = new Fleet(store)
      runs = []
    })
    afterEach(() => fleet.close())

    /** Runs the slot of a job that is done at once. */
    function quickly({ once }: Process, slot: Date | string, options = {}): Promise<Outcome<string>> {
      const work = ({ slot: of }: RunScope): string => {
        runs.push(of)
        return `did ${of}`
      }
      return once.run('job', slot, work, { atMost: lasting, ...options })
    }

    /** Begins a run that ends on request. */
    async function begun({ once }: Process, slot: Date | string, options = {}): Promise<Run> {
      const begun = await once.begin('job', slot, { atMost: lasting, ...options })
      if (!begun.ran) throw new Error(`skipped: ${begun.reason}`)
      return begun.run
    }

    it('a slot runs once when many processes come for it at once, and the others are reported by whom', async () => {
      const processes = Array.from({ length: 6 }, () => fleet.process())
      const outcomes = await Promise.all(processes.map((process) => quickly(process, minute(0))))
      const slot = '2026-03-01T03:00:00.000Z'
      expect(runs).to.deep.equal([slot])
      const ran = outcomes.filter((outcome) => outcome.ran)
      expect(ran).to.deep.equal([{ ran: true, slot, result: `did ${slot}` }])
      const by = (await processes[0]?.once.last('job'))?.by
      for (const outcome of outcomes) {
        if (!outcome.ran) expect(outcome).to.deep.equal({ ran: false, reason: 'taken', slot, by })
      }
      expect(by).to.include(String(process.pid))
    })

    it('the process that ran the slot is reported, not one that has the turn after it and only looks', async () => {
      const [first, second] = [fleet.process(), fleet.process()]
      const slot = minute(0).toISOString()
      const late = fleet.process({}, (manager) => ({
        claim: manager.claim.bind(manager),
        find: manager.find.bind(manager),
        release: manager.release.bind(manager),
        revoke: manager.revoke.bind(manager),
        async hold(turn, holder, options) {
          await quickly(first, minute(0))
          await second.manager.hold(turn, 'who-looks', { duration: lasting, value: `begun who-looks ${slot}` })
          return manager.hold(turn, holder, options)
        },
      }))
      const outcome = await quickly(late, minute(0))
      const by = (await first.once.last('job'))?.by
      expect(outcome).to.deep.equal({ ran: false, reason: 'taken', slot, by })
      expect(by).to.include(String(process.pid))
    })

    it('a slot runs once in one process as well', async () => {
      const here = fleet.process()
      const outcomes = await Promise.all([1, 2, 3].map(() => quickly(here, minute(0))))
      expect(outcomes.filter(({ ran }) => ran)).to.have.length(1)
    })

    it('a process whose clock is late is skipped when the job is long done, and so is one that is a slot late', async () => {
      const [a, b] = [fleet.process(), fleet.process()]
      await quickly(a, minute(0))
      expect(await quickly(b, minute(0))).to.include({ ran: false, reason: 'taken' })
      await quickly(b, minute(1))
      await quickly(a, minute(2))
      expect(await quickly(b, minute(1))).to.include({ ran: false, reason: 'passed', slot: minute(2).toISOString() })
      expect(await quickly(b, minute(0))).to.include({ ran: false, reason: 'passed' })
      expect(runs).to.deep.equal([0, 1, 2].map((n) => minute(n).toISOString()))
    })

    it('a slot follows another at once, however long the other is remembered', async () => {
      const processes = [fleet.process(), fleet.process(), fleet.process()]
      const slots = Array.from({ length: 8 }, (_, n) => minute(n))
      for (const slot of slots) for (const process of processes) await quickly(process, slot)
      expect(runs).to.deep.equal(slots.map((slot) => slot.toISOString()))
    })

    it('a Date, a DateTime of any zone and a string may be slots, and names may have any signs', async () => {
      const [a, b] = [fleet.process(), fleet.process()]
      const at = DateTime.fromISO('2026-03-01T04:00:00.000+01:00', { setZone: true })
      for (const name of ['a.b/c d:e', 'a.b', 'a']) {
        expect(await a.once.run(name, at, () => 1)).to.include({ ran: true })
        expect(await b.once.run(name, minute(0), () => 1)).to.include({ ran: false, reason: 'taken' })
      }
      for (const slot of ['2026-W09', '2026-W10 – ä']) {
        expect(await a.once.run('weekly', slot, () => 1)).to.include({ ran: true, slot })
        expect(await b.once.run('weekly', slot, () => 1)).to.include({ ran: false, reason: 'taken', slot })
      }
      expect(await b.once.run('weekly', '2026-W08', () => 1)).to.include({ ran: false, reason: 'passed' })
    })

    it('jobs of other names and other prefixes have nothing to do with each other', async () => {
      const [a, b] = [fleet.process(), fleet.process({ prefix: 'other' })]
      expect(await quickly(a, minute(1))).to.include({ ran: true })
      expect(await quickly(b, minute(0))).to.include({ ran: true })
      expect(await a.once.run('else', minute(0), () => 1)).to.include({ ran: true })
    })

    it('a slot is skipped while an earlier one runs, elsewhere or here, and a later one runs afterwards', async () => {
      const [a, b] = [fleet.process(), fleet.process()]
      const run = await begun(a, minute(0))
      for (const process of [a, b]) {
        expect(await quickly(process, minute(0))).to.include({ ran: false, reason: 'taken', by: run.holder })
        const busy = { ran: false, reason: 'busy', slot: minute(0).toISOString(), by: run.holder }
        expect(await quickly(process, minute(1))).to.deep.equal(busy)
      }
      await run.release()
      expect(await quickly(b, minute(1))).to.include({ ran: true })
    })

    it('a work that fails has run: the error is the caller’s, and the slot stays taken', async () => {
      const [a, b] = [fleet.process(), fleet.process()]
      for (const [n, error] of [new Error('mine'), undefined, null, 'text'].entries()) {
        const failing = a.once.run('job', minute(n), () => Promise.reject(error as Error))
        const thrown: unknown = await failing.then(
          () => 'nothing',
          (reason: unknown) => reason,
        )
        expect(thrown).to.equal(error)
        expect(await quickly(b, minute(n))).to.include({ ran: false, reason: 'taken' })
        expect(await b.once.last('job')).to.include({ done: true })
      }
    })

    it('the last slot can be read: which, by whom, and whether it is done', async () => {
      const [a, b] = [fleet.process(), fleet.process()]
      expect(await b.once.last('job')).to.equal(undefined)
      await quickly(a, minute(0))
      const run = await begun(a, minute(1))
      const last = { slot: minute(1).toISOString(), by: run.holder }
      expect(await b.once.last('job')).to.deep.equal({ ...last, done: false })
      await run.release()
      expect(await b.once.last('job')).to.deep.equal({ ...last, done: true })
    })

    it('a process that was down catches up: it comes for the last slots that were due, and those that ran are skipped', async () => {
      const [a, b] = [fleet.process(), fleet.process()]
      await quickly(a, minute(0))
      await quickly(a, minute(1))
      for (const n of [0, 1, 2, 3]) await quickly(b, minute(n))
      expect(runs).to.deep.equal([0, 1, 2, 3].map((n) => minute(n).toISOString()))
    })

    it('an operator has a job forget its last slots, and the slot runs again', async () => {
      const [a, b] = [fleet.process(), fleet.process()]
      await quickly(a, minute(0))
      await quickly(a, minute(1))
      await b.once.forget('job')
      expect(await b.once.last('job')).to.equal(undefined)
      expect(await quickly(b, minute(1))).to.include({ ran: true })
    })

    it('a run is held: guards and `using` take it, its fencing token rises, and its release ends it', async () => {
      const [a, b] = [fleet.process(), fleet.process()]
      const first = await begun(a, minute(0))
      const held: Held = first
      expect([held.held, held.signal.aborted, held.remaining().toMillis() > 0]).to.deep.equal([true, false, true])
      held.assertHeld()
      await held.token.check()
      const releasing = first.release()
      expect([first.held, first.signal.aborted, first.remaining().toMillis()]).to.deep.equal([false, true, 0])
      expect((first.signal.reason as Error).name).to.equal('AbortError')
      expect(() => first.assertHeld()).to.throw(ErrLost)
      await releasing
      await first.release()
      expect(await first.token.check().catch((error: unknown) => error)).to.be.instanceOf(ErrNotHeld)
      const second = await begun(b, minute(1))
      expect(second.fencingToken > first.fencingToken).to.equal(true)
      expect(await using(second, ({ fencingToken }) => fencingToken)).to.equal(second.fencingToken)
      expect(await a.once.last('job')).to.include({ done: true })
      {
        await using third = await begun(a, minute(2))
        third.assertHeld()
      }
      expect(await a.once.last('job')).to.include({ slot: minute(2).toISOString(), done: true })
    })

    it('what the work is given says which slot, and aborts with the caller’s signal', async () => {
      const { once } = fleet.process()
      const stop = new AbortController()
      const outcome = await once.run(
        'job',
        minute(0),
        async ({ signal, fencingToken, slot, run }) => {
          expect([fencingToken, slot]).to.deep.equal([run.fencingToken, run.slot])
          stop.abort(new Error('enough'))
          return [signal.aborted, run.held, (signal.reason as Error).message]
        },
        { signal: stop.signal },
      )
      expect(outcome).to.deep.include({ ran: true, result: [true, true, 'enough'] })
    })

    /** The process dies in the middle of a run, and its turn lapses. On a server, which may be slow, an operator ends it. */
    async function died(process: Process, witness: Process): Promise<void> {
      await process.crash()
      if (!store.exact) await witness.manager.revoke('once-per/job')
    }
    /** Of runs whose process dies. */
    const mortal = { atMost: store.exact ? store.briefMs : lasting }

    it('a run whose process died counts: its slot is not run again, and the next one runs when the turn has lapsed', async () => {
      const [a, b] = [fleet.process(), fleet.process()]
      const run = await begun(a, minute(0), mortal)
      await died(a, b)
      expect(await quickly(b, minute(0))).to.include({ ran: false, reason: 'taken', by: run.holder })
      await store.until('the next slot', async () => (await quickly(b, minute(1))).ran)
      expect(await quickly(b, minute(0))).to.include({ ran: false, reason: 'passed' })
      expect(runs).to.deep.equal([minute(1).toISOString()])
    })

    it('with `retry`, a process that comes for a slot that runs takes over when the process of the run died', async () => {
      const [a, b, c] = [fleet.process(), fleet.process(), fleet.process()]
      const run = await begun(a, minute(0), mortal)
      const waiting = [b, c].map((process) => track(quickly(process, minute(0), { retry: true })))
      await store.pass(store.momentMs / 10)
      await died(a, b)
      expect(run.held).to.equal(false)
      await store.until('the end of those who wait', () => waiting.every(({ state }) => state !== 'pending'))
      const outcomes = await Promise.all(waiting.map(({ promise }) => promise))
      expect(outcomes.map(({ ran }) => ran)).to.have.members([true, false])
      expect(runs).to.deep.equal([minute(0).toISOString()])
      expect(await quickly(b, minute(0), { retry: true })).to.include({ ran: false, reason: 'taken' })
      expect(await b.once.last('job')).to.include({ done: true })
    })

    it('with `retry`, a process that comes for a slot that runs waits, and is skipped when the run is done', async () => {
      const [a, b] = [fleet.process(), fleet.process()]
      const run = await begun(a, minute(0))
      const waiting = track(quickly(b, minute(0), { retry: true }))
      await store.pass(store.momentMs)
      expect(waiting.state).to.equal('pending')
      await run.release()
      await store.until('the end of the wait', () => waiting.state !== 'pending')
      expect(waiting.value).to.include({ ran: false, reason: 'taken', by: run.holder })
      expect(runs).to.deep.equal([])
    })

    it('with `retry`, a wait ends with its signal and leaves nothing behind', async () => {
      const [a, b] = [fleet.process(), fleet.process()]
      const run = await begun(a, minute(0))
      const stop = new AbortController()
      const waiting = track(quickly(b, minute(0), { retry: true, signal: stop.signal }))
      await store.pass(store.momentMs)
      stop.abort(new Error('enough'))
      await store.until('the end of the wait', () => waiting.state !== 'pending')
      expect(waiting.error).to.have.property('message', 'enough')
      await run.release()
      expect(await quickly(b, minute(1))).to.include({ ran: true })
    })

    it('a slot is not skipped because a process with an earlier slot is looking', async () => {
      // The late one has the turn and reads the marks; meanwhile the next slot fires elsewhere.
      let look = (): void => {}
      let looking = (): void => {}
      const looks = new Promise<void>((resolve) => (looking = resolve))
      const looked = new Promise<void>((resolve) => (look = resolve))
      const late = fleet.process({}, (manager) => {
        let hasTurn = false
        return replaced(manager, {
          hold: async (...args: Parameters<Manager['hold']>) => {
            const hold = await manager.hold(...args)
            hasTurn = true
            return hold
          },
          find: async (...args: Parameters<Manager['find']>) => {
            if (hasTurn) {
              looking()
              await looked
            }
            return manager.find(...args)
          },
        })
      })
      const there = fleet.process()
      for (const n of [0, 1]) await quickly(there, minute(n))
      const lateRun = quickly(late, minute(2))
      await looks
      const next = track(quickly(there, minute(3)))
      await store.pass(store.momentMs)
      expect(next.state).to.equal('pending')
      look()
      await store.until('the next slot', () => next.state !== 'pending')
      expect(await lateRun).to.include({ ran: true })
      // It ran, unless it came while the late one was at work.
      if (store.exact || next.value?.ran === true) expect(next.value).to.include({ ran: true })
      else expect(next.value).to.include({ reason: 'busy' })
    })

    it('a slot is run at most once, whatever the order and the delay in which processes come for slots', async () => {
      const processes = [fleet.process(), fleet.process(), fleet.process()]
      const started = new Map<string, number>()
      const count = 12
      const live = async ({ once }: Process, seed: number): Promise<void> => {
        for (let step = 0; step < count; step++) {
          // Each process has its own view of time: up to two slots ahead or behind.
          const n = Math.max(0, step + ((seed * 7 + step * 5) % 5) - 2)
          await once.run('job', minute(n), ({ slot }) => started.set(slot, (started.get(slot) ?? 0) + 1))
        }
      }
      const living = track(Promise.all(processes.map(live)))
      await store.until('all of them', () => living.state !== 'pending')
      await living.promise
      expect([...started.values()].every((times) => times === 1)).to.equal(true)
      expect(started.size).to.be.at.least(store.exact ? 5 : 1)
    })

    it('nothing but the marks of the job is left, and they lapse', async () => {
      const [a, b] = [fleet.process(), fleet.process()]
      for (const n of [0, 1, 2]) for (const process of [a, b]) await quickly(process, minute(n))
      expect([...(await b.manager.leases()).keys()].toSorted()).to.deep.equal(['once-per/job/0', 'once-per/job/1'])
      await b.once.forget('job')
      const brief = { atLeast: store.briefMs }
      await quickly(a, minute(3), brief)
      await quickly(b, minute(4), brief)
      await store.until('an end of the marks', async () => (await b.manager.leases()).size === 0)
      expect(await b.once.last('job')).to.equal(undefined)
    })
  })
}

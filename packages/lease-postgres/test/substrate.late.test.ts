import { expect } from 'chai'
import {
  contended,
  late,
  LONGEST_DEADLINE_MS,
  type Call,
  type ClaimOp,
  type Holding,
  type Op,
  type Verdict,
} from 'lease-core/adapter'
import { enoughOf, type Postgres, postgresTargets, startPostgres, startProxy } from 'lease-servers'
import type { PostgresSubstrate } from 'lease-postgres'
import {
  claim,
  eventually,
  expire,
  extend,
  grant,
  newCall,
  noneUnheard,
  pin,
  readOne,
  release,
  settle,
  unique,
  unpin,
} from 'lease-scenes'
import { openSetting, releaseHeld, type Setting } from './setting.ts'

noneUnheard()

/** One of the two ways to claim, as a verdict on the lease that the operation names. */
interface Way {
  readonly name: string
  readonly apply: (substrate: PostgresSubstrate, op: ClaimOp, call: Call) => Promise<Verdict>
}

const oneOf = async (substrate: PostgresSubstrate, op: Op, call: Call): Promise<Verdict> =>
  (await substrate.apply([op], call))[0] ?? expect.fail()

const ways: readonly Way[] = [
  { name: 'a claim', apply: oneOf },
  { name: 'a claim of one who waits', apply: (substrate, op, call) => oneOf(substrate, { ...op, place: 0 }, call) },
]

for (const target of enoughOf(postgresTargets())) {
  describe(`a request that comes too late, on ${target.name}`, () => {
    let setting: Setting
    let substrate: PostgresSubstrate
    let name: string
    const namespace = unique('ns')
    before(async () => {
      setting = await openSetting(target)
      substrate = setting.substrate({ namespace })
    })
    after(() => setting[Symbol.asyncDispose]())
    beforeEach(() => (name = unique('lease')))

    const serverMs = (): Promise<number> => substrate.time(newCall())
    const overdue = async (): Promise<Call> => newCall({ notAfterMs: (await serverMs()) - 0.001 })
    /** As sent now, to be executed whenever. */
    const sentNow = async (): Promise<Call> => newCall({ sentMs: await serverMs() })

    describe('after its deadline', () => {
      it('does nothing, whatever the operation', async () => {
        const { fencingToken, nonce } = await grant(substrate, claim(name, 'a', 60_000))
        const [lapsed, vacant, unheard] = [unique('lease'), unique('lease'), unique('lease')]
        await grant(substrate, claim(lapsed, 'z', 1))
        await grant(substrate, claim(vacant, 'z', 60_000))
        await releaseHeld(substrate, vacant)
        await settle(substrate, pin(name, 'e', 'g'))
        await setting.lapsed(lapsed)
        const [ticket, ticketOfVacant] = [1, 2]
        await setting.pool.query(
          `INSERT INTO lease_waiter (ns, name, place, client, until)
           SELECT $1, name, place, 'test', now() + interval '1 hour' FROM unnest($2::text[], $3::int[]) AS t(name, place)`,
          [namespace, [name, vacant], [ticket, ticketOfVacant]],
        )
        const rows = (): Promise<unknown> =>
          Promise.all([name, lapsed, vacant, unheard].map(async (lease) => await setting.row(lease)))
        const before = await rows()
        const adoption = { from: nonce, nonce: unique('nonce') }
        const ops: Op[] = [
          ...[name, lapsed, vacant, unheard].map((lease) => claim(lease, 'b', 60_000)),
          extend(name, 'a', 90_000, { fencingToken, value: 'v' }),
          extend(name, 'a', 60_000, { fencingToken, adoption }),
          release(name, 'a', { fencingToken, nonce }),
          release(name, 'a', { fencingToken }),
          release(name, 'a', { nonce }),
          release(unheard, 'a', { nonce }),
          expire(lapsed),
          pin(name, 'f'),
          pin(unheard, 'f'),
          unpin(name, 'e', 'g'),
          unpin(unheard, 'e', 'g'),
          { kind: 'leave', lease: name, place: ticket },
          { kind: 'passOver', lease: vacant, place: ticketOfVacant },
        ]
        for (const op of ops) {
          expect(await oneOf(substrate, op, await overdue()), `${op.kind} ${op.lease}`).to.deep.equal(late)
          if (op.kind !== 'claim') continue
          for (const { apply } of ways)
            expect(await apply(substrate, op, await overdue())).to.have.property('outcome', 'late')
        }
        expect(await rows()).to.deep.equal(before)
        const waiters = 'SELECT FROM lease_waiter WHERE name = ANY($1)'
        expect((await setting.pool.query(waiters, [[name, lapsed, vacant, unheard]])).rowCount).to.equal(2)
      })

      it('does nothing, if the deadline passed while it waited for a rival that inserts the row', async () => {
        const ops = [
          ...ways.map(({ apply }) => [claim(name, 'b', 60_000), apply] as const),
          [pin(name, 'e'), oneOf] as const,
        ]
        for (const [op, apply] of ops) {
          const rival = await setting.pool.connect()
          try {
            await rival.query('BEGIN')
            await rival.query('INSERT INTO lease (ns, name, token, expiry) VALUES ($1, $2, 1, now())', [
              namespace,
              name,
            ])
            const notAfterMs = (await serverMs()) + 1_000
            const pending = apply(substrate, op as ClaimOp, newCall({ notAfterMs }))
            // On a machine so slow that it is late at once, it does not wait either.
            let answered = false
            void pending.finally(() => (answered = true))
            await eventually(async () => answered || (await setting.isWaitedFor(rival)))
            await eventually(async () => (await serverMs()) > notAfterMs)
            await rival.query('ROLLBACK')
            // Or it had waited in vain by then, for as long as it was to.
            expect((await pending)?.outcome).to.be.oneOf(['late', 'contended'])
          } finally {
            rival.release()
          }
          expect(await setting.row(name)).to.equal(undefined)
        }
      })

      it('leaves nothing behind, if the deadline passed while the row was inserted', async () => {
        await setting.pool.query(`CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS $$
          BEGIN PERFORM pg_catalog.pg_sleep(0.4); RETURN NEW; END $$`)
        await setting.pool.query('CREATE TRIGGER slowly BEFORE INSERT ON lease FOR EACH ROW EXECUTE FUNCTION slowly()')
        try {
          const ofShare = claim(`${name}#b`, 'b', 60_000, {
            share: { weight: 1, capacity: 1, passing: 0, lapsed: new Map() },
          })
          const ops = [
            ...ways.map(({ apply }) => [claim(name, 'b', 60_000), apply] as const),
            [pin(name, 'e'), oneOf] as const,
            [ofShare, oneOf] as const,
          ]
          for (const [op, apply] of ops) {
            const notAfterMs = (await serverMs()) + 300
            const verdict = await apply(substrate, op as ClaimOp, newCall({ notAfterMs }))
            expect(verdict?.outcome, op.kind).to.equal('late')
            expect(await setting.row(op.lease), op.kind).to.equal(undefined)
          }
        } finally {
          await setting.pool.query('DROP FUNCTION slowly CASCADE')
        }
      })
    })

    const adoptedAndReleased = async (
      { lease, nonce }: ClaimOp,
      fencingToken: bigint,
      times: number,
    ): Promise<void> => {
      for (let [time, from] = [0, nonce]; time < times; time++) {
        const adoption = { from, nonce: unique('nonce') }
        await grant(substrate, extend(lease, 'a', 60_000, { fencingToken, adoption }))
        from = adoption.nonce
      }
      await releaseHeld(substrate, lease)
    }

    for (const { name: way, apply } of ways) {
      describe(`of ${way}`, () => {
        it('opens no second term with its nonce: after a release, a lapse, an expiry, one adoption, two adoptions', async () => {
          const ends: readonly ((op: ClaimOp, fencingToken: bigint) => Promise<unknown>)[] = [
            ({ lease }) => releaseHeld(substrate, lease),
            ({ lease }) => setting.lapse(lease),
            async ({ lease }) => {
              await setting.lapse(lease)
              await settle(substrate, expire(lease))
            },
            (op, fencingToken) => adoptedAndReleased(op, fencingToken, 1),
            (op, fencingToken) => adoptedAndReleased(op, fencingToken, 2),
          ]
          for (const end of ends) {
            name = unique('lease')
            const op = claim(name, 'a', 60_000)
            const { outcome, holding } = await apply(substrate, op, newCall())
            expect(outcome).to.equal('granted')
            await end(op, holding?.fencingToken ?? 0n)
            expect(await apply(substrate, op, newCall())).to.have.property('outcome', 'late')
            expect(await readOne(substrate, name)).to.equal(undefined)
            expect(await grant(substrate, claim(name, 'b', 60_000))).to.include({ holder: 'b' })
          }
        })

        it('opens no term if it was sent before the latest one was opened, and one if it was sent later', async () => {
          const early = await sentNow()
          await grant(substrate, claim(name, 'a', 60_000))
          const later = await sentNow()
          await releaseHeld(substrate, name)
          expect(await apply(substrate, claim(name, 'b', 60_000), early)).to.have.property('outcome', 'late')
          expect(await readOne(substrate, name)).to.equal(undefined)
          expect(await apply(substrate, claim(name, 'b', 60_000), later)).to.have.property('outcome', 'granted')
          await setting.lapse(name)
          expect(await apply(substrate, claim(name, 'c', 60_000), later)).to.have.property('outcome', 'late')
        })

        it('confirms the term that it opened itself, and that stands', async () => {
          const op = claim(name, 'a', 60_000)
          const call = await sentNow()
          const first = await apply(substrate, op, call)
          const again = await apply(substrate, op, call)
          expect(again.outcome).to.equal('granted')
          expect(again.holding).to.include({ fencingToken: first.holding?.fencingToken, nonce: op.nonce })
        })

        it('locks the term that it confirms: the answer is as durable as the first one', async () => {
          const op = claim(name, 'a', 60_000)
          await apply(substrate, op, newCall())
          const xmax = async (): Promise<unknown> =>
            (await setting.pool.query('SELECT xmax::text FROM lease WHERE name = $1', [name])).rows[0].xmax
          const before = await xmax()
          expect(await apply(substrate, op, newCall())).to.have.property('outcome', 'granted')
          expect(await xmax()).to.not.equal(before)
          await whileLocked(async () => {
            expect(await apply(substrate, op, newCall())).to.have.property('outcome', 'contended')
          })
        })
      })
    }

    describe('of an extension', () => {
      it('does not bring back the value that a later one has replaced', async () => {
        const { fencingToken } = await grant(substrate, claim(name, 'a', 60_000, { value: 'first' }))
        const early = await sentNow()
        const older = extend(name, 'a', 60_000, { fencingToken, value: 'older' })
        for (const value of ['first', 'newer']) {
          await oneOf(substrate, extend(name, 'a', 60_000, { fencingToken, value }), await sentNow())
          expect(await oneOf(substrate, older, early)).to.deep.equal(late)
          expect(await readOne(substrate, name)).to.have.property('value', value)
        }
        expect(await oneOf(substrate, older, await sentNow())).to.have.property('outcome', 'granted')
      })

      it('does not make the next value late', async () => {
        const { fencingToken } = await grant(substrate, claim(name, 'a', 60_000))
        const [first, second] = [await sentNow(), await sentNow()]
        const extension = (value: string): Op => extend(name, 'a', 60_000, { fencingToken, value })
        await oneOf(substrate, extension('first'), first)
        await oneOf(substrate, extension('first'), first)
        expect(await oneOf(substrate, extension('second'), second)).to.have.property('outcome', 'granted')
      })

      it('renews, adopts, or is refused, whatever value was sent later', async () => {
        const { fencingToken, nonce: from } = await grant(substrate, claim(name, 'a', 60_000))
        const early = await sentNow()
        await oneOf(substrate, extend(name, 'a', 60_000, { fencingToken, value: 'v' }), await sentNow())
        const adoption = { from, nonce: unique('nonce') }
        for (const more of [{}, { value: 'v' }, { adoption }]) {
          const { outcome, holding } = await oneOf(
            substrate,
            extend(name, 'a', 60_000, { fencingToken, ...more }),
            early,
          )
          expect(outcome).to.equal('granted')
          expect(holding).to.have.property('value', 'v')
        }
        const another = { from, nonce: unique('nonce') }
        for (const more of [{ adoption: another }, { fencingToken: fencingToken - 1n }]) {
          const op = extend(name, 'a', 60_000, { fencingToken, value: 'w', ...more })
          expect(await oneOf(substrate, op, early)).to.have.property('outcome', 'refused')
        }
      })
    })

    it('of a claim leaves the value that an extension has set', async () => {
      for (const { apply } of ways) {
        const op = claim(unique('lease'), 'a', 60_000, { value: 'first' })
        const { holding } = await apply(substrate, op, newCall())
        const { fencingToken } = holding ?? expect.fail()
        await grant(substrate, extend(op.lease, 'a', 60_000, { fencingToken, value: 'newer' }))
        expect((await apply(substrate, op, newCall())).holding).to.have.property('value', 'newer')
        expect(await readOne(substrate, op.lease)).to.have.property('value', 'newer')
      }
    })

    it('is remembered for as long as one may be late, and not once the clock was set back since', async () => {
      const move = async (byMs: number): Promise<void> => {
        await setting.pool.query('UPDATE lease SET token = token + $1 WHERE name = $2', [byMs * 1000, name])
      }
      const early = await sentNow()
      for (const byMs of [-LONGEST_DEADLINE_MS, 60_000]) {
        await grant(substrate, claim(name, 'a', 60_000))
        await releaseHeld(substrate, name)
        expect(await oneOf(substrate, claim(name, 'b', 60_000), early)).to.deep.equal(late)
        await move(byMs)
        expect(await oneOf(substrate, claim(name, 'b', 60_000), early)).to.have.property('outcome', 'granted')
        await releaseHeld(substrate, name)
      }
      // The fencing token is ahead of the clock now, and the term is as old as it is.
      const { fencingToken, ageMs } = await grant(substrate, claim(name, 'c', 60_000))
      expect(Number(fencingToken) / 1000).to.be.greaterThan((await serverMs()) + 10_000)
      expect(ageMs).to.be.within(0, 10_000)
      expect((await readOne(substrate, name))?.ageMs).to.be.within(0, 10_000)
      await releaseHeld(substrate, name)
      expect(await oneOf(substrate, claim(name, 'b', 60_000), early)).to.deep.equal(late)
    })

    it('of an unpin leaves a newer pin', async () => {
      await settle(substrate, pin(name, 'e', 'old'))
      await settle(substrate, pin(name, 'e', 'new'))
      expect(await settle(substrate, unpin(name, 'e', 'old'))).to.have.property('outcome', 'granted')
      expect((await substrate.pinned(newCall(), [name])).get(name)?.get('e')).to.equal('new')
    })

    it('of a pin sets none that was withdrawn after it was sent, not even if it comes for the first time', async () => {
      for (const known of ['a row', 'no row']) {
        name = unique('lease')
        if (known === 'a row') await settle(substrate, claim(name, 'a', 60_000))
        const call = await sentNow()
        const op = pin(name, 'e')
        await settle(substrate, unpin(name, 'e', op.generation))
        expect(await oneOf(substrate, op, call), known).to.deep.equal(late)
        expect((await substrate.pinned(newCall(), [name])).size).to.equal(0)
        expect(await oneOf(substrate, pin(name, 'e'), await sentNow())).to.have.property('outcome', 'granted')
      }
    })

    it('of a pin does not take the place of a newer one, and confirms the one that it set', async () => {
      const call = await sentNow()
      const [first, second] = [pin(name, 'e'), pin(name, 'e')]
      expect(await oneOf(substrate, first, call)).to.have.property('outcome', 'granted')
      expect(await oneOf(substrate, first, call)).to.have.property('outcome', 'granted')
      await settle(substrate, second)
      expect(await oneOf(substrate, first, call)).to.deep.equal(late)
      expect((await substrate.pinned(newCall(), [name])).get(name)?.get('e')).to.equal(second.generation)
      expect(await oneOf(substrate, pin(name, 'another'), call)).to.have.property('outcome', 'granted')
    })

    it('by a stalled connection changes nothing that was done since', async () => {
      await using proxy = await startProxy(setting.url)
      const pool = setting.newPool({ connectionString: proxy.url(setting.url) })
      const stalled = setting.substrate({ namespace, pool })
      const [freed, kept, adopted, pinned] = [name, unique('lease'), unique('lease'), unique('lease')]
      const { nonce: from, fencingToken } = await grant(substrate, claim(adopted, 'a', 60_000))
      await grant(stalled, claim(unique('warm'), 'a', 60_000))
      const call = await sentNow()
      proxy.hold()
      const pending = [
        stalled.apply([claim(freed, 'a', 60_000), claim(kept, 'a', 60_000)], call),
        stalled.apply([release(adopted, 'a', { fencingToken, nonce: from })], call),
        stalled.apply([pin(pinned, 'e')], call),
      ]
      // The same process goes on over other connections.
      await grant(substrate, claim(freed, 'a', 60_000))
      await releaseHeld(substrate, freed)
      const { nonce } = await grant(substrate, claim(kept, 'a', 60_000))
      const adoption = { from, nonce: unique('nonce') }
      await grant(substrate, extend(adopted, 'a', 60_000, { fencingToken, adoption }))
      const newPin = pin(pinned, 'e')
      await settle(substrate, newPin)
      await settle(substrate, unpin(pinned, 'e', newPin.generation))
      proxy.resume()
      const outcomes = (await Promise.all(pending)).flat().map(({ outcome }) => outcome)
      expect(outcomes).to.deep.equal(['late', 'refused', 'refused', 'late'])
      expect(await readOne(substrate, freed)).to.equal(undefined)
      expect(await readOne(substrate, kept)).to.include({ nonce })
      expect(await readOne(substrate, adopted)).to.include({ nonce: adoption.nonce })
      expect((await substrate.pinned(newCall(), [pinned])).size).to.equal(0)
    })

    it('of a release ends the term or leaves the adoption, never both, when they race', async () => {
      const outcomes = new Set<string>()
      await eventually(async () => {
        const { fencingToken, nonce: from } = await grant(substrate, claim(name, 'a', 60_000))
        const adoption = { from, nonce: unique('nonce') }
        const race: Op[] = [
          extend(name, 'a', 60_000, { fencingToken, adoption }),
          release(name, 'a', { fencingToken, nonce: from }),
        ]
        if (Math.random() < 0.5) race.reverse()
        const verdicts = await Promise.all(race.map((op) => settle(substrate, op)))
        const results = verdicts.map(({ outcome }) => outcome).toSorted()
        expect(results).to.deep.equal(['granted', 'refused'])
        const left = await readOne(substrate, name)
        if (left !== undefined) {
          expect(left).to.include({ fencingToken, nonce: adoption.nonce })
          await releaseHeld(substrate, name)
        }
        outcomes.add(left === undefined ? 'released' : 'adopted')
        return outcomes.size === 2
      })
    })

    /** Runs the body while a stranger has the row of the lease locked; the lock goes only when the body is done. */
    async function whileLocked(body: () => Promise<void>, lock = 'UPDATE', lease = name): Promise<void> {
      const rival = await setting.pool.connect()
      try {
        await rival.query('BEGIN')
        await rival.query(`SELECT FROM lease WHERE name = $1 FOR ${lock}`, [lease])
        await body()
      } finally {
        await rival.query('ROLLBACK')
        rival.release()
      }
    }

    it('a locked row is contended, and delays no other operation of the batch', async () => {
      const leases = Array.from({ length: 6 }, () => unique('lease'))
      const terms = new Map<string, Holding>()
      for (const lease of leases) {
        terms.set(lease, await grant(substrate, claim(lease, 'a', 60_000)))
        await settle(substrate, pin(lease, 'e', 'g'))
      }
      const termOf = (lease: string): { fencingToken: bigint; nonce: string | undefined } => {
        const { fencingToken, nonce } = terms.get(lease) ?? expect.fail()
        return { fencingToken, nonce }
      }
      const kinds: Record<string, (lease: string) => Op> = {
        extension: (lease) => extend(lease, 'a', 90_000, termOf(lease)),
        pin: (lease) => pin(lease, 'f'),
        unpin: (lease) => unpin(lease, 'e', 'g'),
        'clean-up of a claim that was given up': (lease) => release(lease, 'a', { nonce: 'unheard of' }),
        release: (lease) => release(lease, 'a', termOf(lease)),
      }
      const [locked = '', ...others] = leases
      for (const [kind, of] of Object.entries(kinds)) {
        await whileLocked(
          async () => {
            const [first, ...rest] = await substrate.apply([locked, ...others].map(of), newCall())
            expect(first, kind).to.deep.equal(contended)
            const expected = kind.startsWith('clean-up') ? 'refused' : 'granted'
            expect(
              rest.map(({ outcome }) => outcome),
              kind,
            ).to.deep.equal(rest.map(() => expected))
          },
          'UPDATE',
          locked,
        )
      }
    })

    it('a guarded row passes extension, adoption, pin, unpin and release', async () => {
      const { fencingToken, nonce: from } = await grant(substrate, claim(name, 'a', 60_000))
      const nonce = unique('nonce')
      await whileLocked(async () => {
        for (const op of [
          extend(name, 'a', 90_000, { fencingToken }),
          extend(name, 'a', 90_000, { fencingToken, adoption: { from, nonce } }),
          pin(name, 'e', 'g'),
          unpin(name, 'e', 'g'),
          release(name, 'a', { nonce }),
        ]) {
          expect(await oneOf(substrate, op, newCall()), op.kind).to.have.property('outcome', 'granted')
        }
      }, 'KEY SHARE')
    })

    it('every answer tells the time of the server', async () => {
      const { fencingToken } = await grant(substrate, claim(name, 'a', 60_000))
      const clock = async (): Promise<number> => {
        const { rows } = await setting.pool.query('SELECT extract(epoch FROM clock_timestamp()) * 1000 AS ms')
        return Number(rows[0].ms)
      }
      const calls: Record<string, (call: Call) => Promise<unknown>> = {
        claim: (call) => substrate.apply([claim(unique('lease'), 'a', 60_000)], call),
        refusal: (call) => substrate.apply([claim(name, 'b', 60_000)], call),
        late: (call) => substrate.apply([claim(name, 'b', 60_000)], { ...call, notAfterMs: 1 }),
        share: (call) => {
          const share = { weight: 1, capacity: 1, passing: 0, lapsed: new Map() }
          return substrate.apply([claim(`${unique('counted')}#a`, 'a', 60_000, { share })], call)
        },
        define: (call) => {
          const lease = `${unique('counted')}#`
          return substrate.apply([{ kind: 'define', lease, capacity: 1, from: undefined, generation: 'g' }], call)
        },
        counted: (call) => substrate.counted(`${unique('counted')}#`, call),
        queue: (call) => substrate.apply([claim(name, 'b', 60_000, { place: 0 })], call),
        leave: (call) => substrate.apply([{ kind: 'leave', lease: name, place: 1 }], call),
        'pass over': (call) => substrate.apply([{ kind: 'passOver', lease: name, place: 1 }], call),
        watch: (call) => substrate.read([name], call, [name]),
        extend: (call) => substrate.apply([extend(name, 'a', 60_000, { fencingToken })], call),
        pin: (call) => substrate.apply([pin(name, 'e', 'g')], call),
        unpin: (call) => substrate.apply([unpin(name, 'e', 'g')], call),
        expire: (call) => substrate.apply([expire(name)], call),
        release: (call) => substrate.apply([release(name, 'a', { fencingToken })], call),
        read: (call) => substrate.read([name], call),
        'read of nothing': (call) => substrate.read([unique('lease')], call),
        'read of all': (call) => substrate.read(undefined, call),
        pinned: (call) => substrate.pinned(call),
        'pinned of nothing': (call) => substrate.pinned(call, [unique('lease')]),
        time: async (call) => call.answered?.(await substrate.time(call)),
      }
      for (const [kind, send] of Object.entries(calls)) {
        const before = await clock()
        const told: number[] = []
        await send(newCall({ answered: (ms) => void told.push(ms) }))
        expect(told, kind).to.have.length(1)
        expect(told[0], kind).to.be.within(before - 0.001, (await clock()) + 0.001)
      }
    })

    it('every holding tells its nonce, and the age of its term', async () => {
      const openedMs = performance.now()
      const op = claim(name, 'a', 60_000)
      const first = await grant(substrate, op)
      expect(first.ageMs).to.be.within(0, performance.now() - openedMs)
      await setting.pool.query('UPDATE lease SET token = token - 3600000000 WHERE name = $1', [name])
      const fencingToken = first.fencingToken - 3_600_000_000n
      const answers = {
        extension: await grant(substrate, extend(name, 'a', 60_000, { fencingToken })),
        refusal: (await settle(substrate, claim(name, 'b', 60_000))).holding,
        replay: await grant(substrate, op),
        pin: await grant(substrate, pin(name, 'e', 'g')),
        unpin: await grant(substrate, unpin(name, 'e', 'g')),
        read: await readOne(substrate, name),
        'read of all': (await substrate.read(undefined, newCall())).get(name),
      }
      for (const [kind, holding] of Object.entries(answers)) {
        expect(holding, kind).to.include({ holder: 'a', fencingToken, nonce: op.nonce })
        expect(holding?.ageMs, kind).to.be.within(3_600_000, 3_600_000 + performance.now() - openedMs)
      }
    })
  })
}

describe('a replay, where commits wait for a standby', () => {
  let server: Postgres
  before(async () => {
    server = await startPostgres({ version: 15, durable: true })
  })
  after(() => server.stop())

  it('is not answered before the standby has what it confirms', async () => {
    await using setting = await openSetting(server)
    const substrate = setting.substrate({ pool: setting.newPool({ application_name: 'claimer' }) })
    const standby = async (name: string): Promise<void> => {
      await setting.pool.query(`ALTER SYSTEM SET synchronous_standby_names = '${name}'`)
      await setting.pool.query('SELECT pg_reload_conf()')
      await eventually(async () => {
        const { rows } = await setting.newPool({ max: 1 }).query('SHOW synchronous_standby_names')
        return rows[0].synchronous_standby_names === name
      })
    }
    const waiting = `SELECT pid FROM pg_stat_activity WHERE application_name = 'claimer' AND wait_event = 'SyncRep'`
    const waits = async (): Promise<boolean> => (await setting.pool.query(waiting)).rowCount === 1
    await settle(substrate, claim('warm', 'a', 60_000))
    await standby('unheard_of')
    try {
      const op = claim('l', 'a', 60_000)
      const first = substrate.apply([op], newCall())
      await eventually(waits)
      await setting.pool.query(`SELECT pg_terminate_backend(pid) FROM (${waiting}) w`)
      expect((await first)[0]).to.have.property('outcome', 'unknown')
      await eventually(async () => (await setting.row('l')) !== undefined) // committed here, and nowhere else
      let answered = false
      const again = oneOf(substrate, op, newCall()).finally(() => (answered = true))
      await eventually(async () => answered || (await waits()))
      expect(answered).to.equal(false)
      await standby('')
      expect(await again).to.have.property('outcome', 'granted')
    } finally {
      await standby('')
    }
  })
})

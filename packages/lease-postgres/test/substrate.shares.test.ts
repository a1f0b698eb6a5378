import { expect } from 'chai'
import type { LeaseChange } from 'lease-core'
import {
  DEFINITION_MS,
  late,
  type Call,
  type ClaimOp,
  type DefineOp,
  type Holding,
  type Op,
  type Verdict,
} from 'lease-core/adapter'
import { collect, SqlGuard, type PostgresSubstrate } from 'lease-postgres'
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
  sleep,
  unique,
  unpin,
} from 'lease-scenes'
import { enough, enoughOf, postgresTargets, startProxy } from 'lease-servers'
import type { PoolClient } from 'pg'
import { openSetting, type Setting } from './setting.ts'

noneUnheard()

/** So long that nothing lapses by itself. */
const longMs = 600_000
/** How often something is tried whose outcome is a matter of luck. */
const ROUNDS = enough(24)

interface Wants extends Partial<Omit<ClaimOp, 'share'>> {
  readonly weight?: number
  readonly capacity?: number | undefined
  readonly passing?: number
  readonly durationMs?: number
}

/** Of a counted lease with a capacity of 1, unless another is given. */
function share(name: string, holder: string, wants: Wants = {}): ClaimOp {
  const { weight = 1, capacity = 1, passing = 0, durationMs = longMs, ...more } = wants
  return claim(`${name}#${holder}`, holder, durationMs, {
    ...more,
    share: { weight, capacity: 'capacity' in wants ? wants.capacity : capacity, passing, lapsed: new Map() },
  })
}

function define(name: string, capacity: number | undefined, from?: string): DefineOp {
  return { kind: 'define', lease: `${name}#`, capacity, from, generation: unique('generation') }
}

const once = async (substrate: PostgresSubstrate, op: Op, call: Call = newCall()): Promise<Verdict> =>
  (await substrate.apply([op], call))[0] ?? expect.fail()

let clients = 0
function callOfOwn(): Call {
  return newCall({ client: `shared-${String(++clients).padStart(5, '0')}` })
}

for (const target of enoughOf(postgresTargets())) {
  describe(`counted leases, on ${target.name}`, () => {
    let setting: Setting
    let namespace: string
    let substrate: PostgresSubstrate
    let name: string
    before(async () => {
      setting = await openSetting(target)
    })
    after(() => setting[Symbol.asyncDispose]())
    beforeEach(() => {
      namespace = unique('ns')
      name = unique('counted')
      substrate = setting.substrate({ namespace, listen: false })
    })

    const counts = async (): Promise<Record<string, unknown> | undefined> =>
      (await setting.pool.query('SELECT * FROM lease_counts WHERE ns = $1 AND name = $2', [namespace, `${name}#`]))
        .rows[0]
    /** As if the shares had been looked at long ago. */
    const lookAgain = (): Promise<unknown> => setting.pool.query('UPDATE lease_counts SET sweep = 0')
    const lapse = async (...leases: readonly string[]): Promise<void> => {
      await setting.lapse(...leases)
      await lookAgain()
    }
    const holdersOf = async (): Promise<string[]> =>
      [...(await substrate.counted(`${name}#`, newCall())).shares.values()].map(({ holder }) => holder).toSorted()
    /** Runs the body while another transaction is open, which is committed in the end. */
    const beside = async (
      statements: readonly (readonly [string, ...unknown[]])[],
      body: (other: PoolClient) => Promise<void>,
    ): Promise<void> => {
      const other = await setting.pool.connect()
      try {
        await other.query('BEGIN')
        for (const [text, ...values] of statements) await other.query(text, values)
        await body(other)
        await other.query('COMMIT')
      } catch (error) {
        await other.query('ROLLBACK')
        throw error
      } finally {
        other.release()
      }
    }
    const ended: Readonly<Record<string, (held: Holding) => Promise<unknown>>> = {
      released: ({ fencingToken, nonce }) => grantedTo(release(`${name}#a`, 'a', { fencingToken, nonce })),
      revoked: ({ fencingToken }) => grantedTo(release(`${name}#a`, 'a', { fencingToken })),
      withdrawn: ({ nonce }) => grantedTo(release(`${name}#a`, 'a', { nonce })),
      lapsed: () => lapse(`${name}#a`),
      'lapsed and unpinned': async () => {
        await settle(substrate, pin(`${name}#a`, 'e', 'g'))
        await lapse(`${name}#a`)
        await grantedTo(unpin(`${name}#a`, 'e', 'g'))
      },
    }
    const grantedTo = async (op: Op): Promise<void> => {
      expect(await settle(substrate, op)).to.include({ outcome: 'granted' })
    }

    // ── what counts ───────────────────────────────────────────────────────────────────────────────────────────────

    for (const [how, end] of Object.entries(ended)) {
      it(`grant nothing of what is ${how} before the guarded transaction of that share ends`, async () => {
        const held = await grant(substrate, share(name, 'a'))
        const guarding = await setting.pool.connect()
        try {
          await guarding.query('BEGIN')
          if (how === 'released') {
            const guard = new SqlGuard()
            await substrate.trapdoor(`${name}#a`, 'a', held.fencingToken)(guard)
            const { rows } = await guarding.query(`SELECT ${guard.text} AS held`, guard.values)
            expect(rows).to.deep.equal([{ held: true }])
          } else await substrate.trapdoor(`${name}#a`, 'a', held.fencingToken)(guarding)
          await end(held)
          for (const op of [share(name, 'b'), share(name, 'b', { place: 0 }), share(name, 'a')]) {
            expect(await once(substrate, op), op.lease).to.deep.equal({
              outcome: 'contended',
              holding: undefined,
              cause: undefined,
            })
          }
          // What does not need that room is granted.
          await settle(substrate, define(name, 2, (await counts())?.['generation'] as string))
          await grant(substrate, share(name, 'c', { capacity: 2 }))
          expect(await once(substrate, share(name, 'b', { capacity: 2 }))).to.include({ outcome: 'contended' })
          await guarding.query('COMMIT')
        } finally {
          guarding.release()
        }
        expect(await once(substrate, share(name, 'b', { capacity: 2 }))).to.include({ outcome: 'granted' })
        expect(await holdersOf()).to.deep.equal(['b', 'c'])
        expect(await counts()).to.include({ used: '2' })
      })
    }

    it('let the guard of a share pass although another claim looks for room', async () => {
      const held = await grant(substrate, share(name, 'a'))
      await beside([], async (guarding) => {
        await substrate.trapdoor(`${name}#a`, 'a', held.fencingToken)(guarding)
        await lookAgain()
        expect(await once(substrate, share(name, 'b'))).to.include({ outcome: 'refused' })
        await grant(substrate, extend(`${name}#a`, 'a', longMs, { fencingToken: held.fencingToken }))
      })
    })

    it('count a share that has lapsed while its extension is not committed, and as that ends', async () => {
      for (const end of ['COMMIT', 'ROLLBACK'] as const) {
        name = unique('counted')
        await grant(substrate, share(name, 'a'))
        await lapse(`${name}#a`)
        await beside(
          [[`UPDATE lease SET expiry = now() + interval '1 hour' WHERE name = $1`, `${name}#a`]],
          async (other) => {
            expect(await once(substrate, share(name, 'b'))).to.include({ outcome: 'contended' })
            await other.query(end)
          },
        )
        await lookAgain()
        const verdict = await once(substrate, share(name, 'b'))
        expect(verdict).to.include({ outcome: end === 'COMMIT' ? 'refused' : 'granted' })
      }
    })

    it('show, in a refusal, the share that lapses first, and one that is pinned last', async () => {
      const capacity = 3
      await grant(substrate, share(name, 'a', { capacity, durationMs: longMs / 2 }))
      await settle(substrate, pin(`${name}#a`, 'e'))
      await grant(substrate, share(name, 'b', { capacity, durationMs: 3 * longMs }))
      await grant(substrate, share(name, 'c', { capacity, durationMs: 2 * longMs, value: 'of c' }))
      const { counted } = await once(substrate, share(name, 'd', { capacity }))
      expect(
        [...(counted?.shares ?? [])].map(([lease, { holder, weight, value }]) => [lease, holder, weight, value]),
      ).to.deep.equal([[`${name}#c`, 'c', 1, 'of c']])
      expect(counted).to.include({ capacity })
      expect([...(await substrate.counted(`${name}#`, newCall())).shares.keys()]).to.deep.equal(
        ['c', 'b', 'a'].map((one) => `${name}#${one}`),
      )
    })

    it('that have lapsed take no room from others, also when their holders were refused another since', async () => {
      const capacity = 3
      await grant(substrate, share(name, 'a', { capacity }))
      await grant(substrate, share(name, 'b', { capacity, weight: 2 }))
      await setting.lapse(`${name}#a`)
      expect(await once(substrate, share(name, 'a', { capacity, weight: 2 }))).to.include({ outcome: 'refused' })
      expect(await once(substrate, share(name, 'c', { capacity }))).to.include({ outcome: 'granted' })
      expect(await holdersOf()).to.deep.equal(['b', 'c'])
      expect(await counts()).to.include({ used: '3' })
    })

    it('take no room after their time, also when a pin had kept them beyond it before they were extended', async () => {
      const { fencingToken } = await grant(substrate, share(name, 'a'))
      await settle(substrate, pin(`${name}#a`, 'e', 'g'))
      await setting.lapse(`${name}#a`)
      expect(await once(substrate, share(name, 'b'))).to.include({ outcome: 'refused' })
      await grant(substrate, extend(`${name}#a`, 'a', 200, { fencingToken }))
      await settle(substrate, unpin(`${name}#a`, 'e', 'g'))
      await setting.lapsed(`${name}#a`)
      expect(await once(substrate, share(name, 'b'))).to.include({ outcome: 'granted' })
    })

    it('tell the weight of a share wherever its holding is reported, and of no other lease one', async () => {
      const op = share(name, 'a', { weight: 2, capacity: 3 })
      const { fencingToken, weight } = await grant(substrate, op)
      const lease = `${name}#a`
      await grant(substrate, claim(name, 'a', longMs))
      expect([
        weight,
        (await once(substrate, op)).holding?.weight,
        (await grant(substrate, extend(lease, 'a', longMs, { fencingToken }))).weight,
        (await grant(substrate, extend(lease, 'a', longMs, { fencingToken, value: 'v' }))).weight,
        (await once(substrate, share(name, 'a', { capacity: 3 }))).holding?.weight,
        (await settle(substrate, pin(lease, 'e', 'g'))).holding?.weight,
        (await settle(substrate, unpin(lease, 'e', 'g'))).holding?.weight,
        (await settle(substrate, release(lease, 'z', { fencingToken }))).holding?.weight,
        (await readOne(substrate, lease))?.weight,
        (await substrate.read(undefined, newCall())).get(lease)?.weight,
      ]).to.deep.equal(Array.from({ length: 10 }, () => 2))
      expect((await readOne(substrate, name))?.weight).to.equal(undefined)
    })

    it('grant as many of one batch as fit, in tokens that rise', async () => {
      const ops = ['a', 'b', 'c', 'd'].map((holder) => share(name, holder, { capacity: 3 }))
      const verdicts = await substrate.apply([...ops, share(unique('counted'), 'a')], newCall())
      expect(verdicts.map(({ outcome }) => outcome)).to.deep.equal([
        'granted',
        'granted',
        'granted',
        'refused',
        'granted',
      ])
      const tokens = verdicts.slice(0, 3).map(({ holding }) => holding?.fencingToken ?? 0n)
      expect(tokens).to.deep.equal([...new Set(tokens)].toSorted((one, other) => (one < other ? -1 : 1)))
    })

    it('grant one of two claims of one holder that come at once, and confirm the term to a copy of the claim', async () => {
      const op = share(name, 'a', { capacity: 5 })
      for (let round = 0; round < 10; round++) {
        const copies = [op, op, share(name, 'a', { capacity: 5 })]
        const verdicts = await Promise.all(copies.map((one) => settle(substrate, one)))
        expect(verdicts.filter(({ outcome }) => outcome === 'granted').length).to.be.oneOf([1, 2])
        expect(await counts()).to.include({ used: '1' })
        expect(await holdersOf()).to.deep.equal(['a'])
      }
    })

    it('have fencing tokens above all earlier ones, whatever the clock says and what is forgotten', async () => {
      const first = await grant(substrate, share(name, 'a', { capacity: 2 }))
      const far = first.fencingToken + 10n ** 15n
      await setting.pool.query('UPDATE lease_counts SET token = $1 WHERE name = $2', [String(far), `${name}#`])
      const second = await grant(substrate, share(name, 'b', { capacity: 2 }))
      expect(second.fencingToken).to.equal(far + 1n)
      for (const holder of ['a', 'b'])
        await settle(
          substrate,
          release(`${name}#${holder}`, holder, {
            fencingToken: holder === 'a' ? first.fencingToken : second.fencingToken,
          }),
        )
      await grantedTo(define(name, undefined, (await counts())?.['generation'] as string))
      await setting.pool.query('UPDATE lease_counts SET ended = 0 WHERE ns = $1', [namespace])
      // The counted lease goes, and the shares are too young for that. Then they go as well.
      expect(await collect(setting.pool, { namespace, retention: 10_000 })).to.equal(0)
      expect(await counts()).to.equal(undefined)
      const third = await grant(substrate, share(name, 'c'))
      expect(third.fencingToken).to.equal(far + 2n)
      await setting.age(`${name}#a`, `${name}#b`)
      expect(await collect(setting.pool, { namespace, retention: 10_000 })).to.equal(2)
      await settle(substrate, release(`${name}#c`, 'c', { fencingToken: third.fencingToken }))
      expect((await grant(substrate, share(name, 'd'))).fencingToken).to.equal(far + 3n)
    })

    it('read no other share to grant one that fits, or to release one, however many there are', async () => {
      const pool = setting.newPool({ max: 1 })
      const one = setting.substrate({ namespace, pool, listen: false })
      const capacity = 3_000
      await grant(one, share(name, 'first', { capacity }))
      await setting.pool.query(
        `INSERT INTO lease (ns, name, holder, token, expiry, nonce, weight)
         SELECT $1, $2 || g, 'h' || g, 1, now() + interval '1 hour', 'n' || g, 1 FROM generate_series(1, 2000) g`,
        [namespace, `${name}#h`],
      )
      await setting.pool.query('UPDATE lease_counts SET used = used + 2000 WHERE ns = $1', [namespace])
      const fetched = async (): Promise<number> => {
        await pool.query('SELECT pg_stat_force_next_flush()')
        const { rows } = await pool.query(
          `SELECT (seq_tup_read + idx_tup_fetch)::int AS count FROM pg_stat_user_tables WHERE relname = 'lease'`,
        )
        return rows[0].count
      }
      await one.read([name], newCall(), [`${name}#first`]) // somebody is to be notified
      const before = await fetched()
      for (let round = 0; round < 20; round++) {
        const { fencingToken } = await grant(one, share(name, `g${round}`, { capacity }))
        await settle(one, release(`${name}#g${round}`, `g${round}`, { fencingToken }))
      }
      expect((await fetched()) - before).to.be.lessThan(400)
    })

    // ── definitions ───────────────────────────────────────────────────────────────────────────────────────────────

    it('take a definition that was sent again as done, also the one that ends it', async () => {
      const first = define(name, 3)
      await grantedTo(first)
      expect(await once(substrate, first)).to.include({ outcome: 'granted' })
      const end = define(name, undefined, first.generation)
      await grantedTo(end)
      expect(await once(substrate, end)).to.include({ outcome: 'granted' })
      expect(await once(substrate, first)).to.deep.equal(late)
      await grantedTo(define(name, 4))
      for (const op of [first, end]) expect(await once(substrate, op)).to.deep.equal(late)
      expect((await substrate.counted(`${name}#`, newCall())).capacity).to.equal(4)
    })

    it('are not defined by what was sent before they were undefined', async () => {
      const sentMs = await substrate.time(newCall())
      const first = define(name, 3)
      await grantedTo(first)
      await grantedTo(define(name, undefined, first.generation))
      for (const op of [define(name, 5), share(name, 'a'), share(name, 'a', { place: 0 })]) {
        expect(await once(substrate, op, newCall({ sentMs }))).to.deep.equal(late)
      }
      expect(await substrate.counted(`${name}#`, newCall())).to.deep.equal({
        capacity: undefined,
        generation: undefined,
        shares: new Map(),
      })
      await grant(substrate, share(name, 'a'))
    })

    it('are not defined again by a claim whose definition is over, as of the same generation', async () => {
      await grantedTo(define(name, 1))
      await grant(substrate, share(name, 'a', { capacity: undefined }))
      await grantedTo(define(name, undefined, (await counts())?.['generation'] as string))
      const op = share(name, 'b')
      expect(await once(substrate, op)).to.include({ outcome: 'refused' })
      await grantedTo(define(name, undefined, op.nonce))
      expect(await once(substrate, op)).to.deep.equal(late)
      expect((await substrate.counted(`${name}#`, newCall())).capacity).to.equal(undefined)
    })

    it('are left alone by what comes after its deadline, also where its row had to wait for another', async () => {
      const nowMs = await substrate.time(newCall())
      const overdue = (): Call => newCall({ notAfterMs: nowMs - 0.001 })
      const unheard = unique('counted')
      const first = define(name, 3)
      await grantedTo(first)
      const before = [await counts(), await holdersOf()]
      for (const op of [
        share(name, 'a', { capacity: 3 }),
        share(unheard, 'a'),
        define(name, 5, first.generation),
        define(unheard, 1),
      ]) {
        expect(await once(substrate, op, overdue()), `${op.kind} ${op.lease}`).to.deep.equal(late)
      }
      expect([await counts(), await holdersOf()]).to.deep.equal(before)
      await setting.pool.query(
        `CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.3); RETURN NEW; END $$;
         CREATE TRIGGER linger BEFORE INSERT ON lease FOR EACH ROW EXECUTE FUNCTION linger()`,
      )
      try {
        const call = newCall({ notAfterMs: (await substrate.time(newCall())) + 290 })
        expect(await once(substrate, share(name, 'a', { capacity: 3 }), call)).to.deep.equal(late)
      } finally {
        await setting.pool.query('DROP TRIGGER linger ON lease; DROP FUNCTION linger')
      }
      expect([(await counts())?.['used'], await holdersOf()]).to.deep.equal(['0', []])
      expect(await setting.row(`${name}#a`)).to.equal(undefined)
    })

    it('change nothing that was done since by what a stalled connection brings', async () => {
      await using proxy = await startProxy(setting.url)
      const pool = setting.newPool({ connectionString: proxy.url(setting.url) })
      const stalled = setting.substrate({ namespace, pool, listen: false })
      const [other, third] = [unique('counted'), unique('counted')]
      await grant(stalled, claim(unique('warm'), 'a', longMs))
      const first = define(name, 1)
      await grantedTo(first)
      const held = await grant(substrate, share(other, 'a'))
      const call = newCall({ sentMs: await substrate.time(newCall()) })
      proxy.hold()
      const claimed = share(name, 'a')
      const pending = [
        [claimed],
        [define(name, 7, first.generation)],
        [release(`${other}#a`, 'a', { fencingToken: held.fencingToken, nonce: held.nonce })],
        [share(third, 'a', { capacity: 9 })],
      ].map((ops) => stalled.apply(ops, call))
      // The same process goes on over other connections.
      await grantedTo(claimed)
      await grantedTo(release(`${name}#a`, 'a', { nonce: claimed.nonce }))
      const second = define(name, 2, first.generation)
      await grantedTo(second)
      await grantedTo(release(`${other}#a`, 'a', { fencingToken: held.fencingToken }))
      await grant(substrate, share(other, 'a'))
      const defined = define(third, 3)
      await grantedTo(defined)
      await grantedTo(define(third, undefined, defined.generation))
      proxy.resume()
      const outcomes = (await Promise.all(pending)).flat().map(({ outcome }) => outcome)
      expect(outcomes).to.deep.equal(['late', 'refused', 'refused', 'late'])
      expect(await substrate.counted(`${name}#`, newCall())).to.include({ capacity: 2, generation: second.generation })
      expect(await holdersOf()).to.deep.equal([])
      expect((await substrate.counted(`${other}#`, newCall())).shares.size).to.equal(1)
      expect((await substrate.counted(`${third}#`, newCall())).capacity).to.equal(undefined)
    })

    it('are forgotten by collect where a claim has defined them and nobody has used them for long, and never otherwise', async () => {
      const names = {
        byUse: unique('by-use'),
        used: unique('used'),
        awaited: unique('awaited'),
        defined: unique('defined'),
      }
      for (const one of [names.byUse, names.used, names.awaited]) await grant(substrate, share(one, 'a'))
      await grantedTo(define(names.defined, 1))
      await once(substrate, share(names.awaited, 'b', { place: 0 }))
      for (const one of [names.byUse, names.awaited]) {
        await settle(
          substrate,
          release(`${one}#a`, 'a', { fencingToken: (await readOne(substrate, `${one}#a`))?.fencingToken }),
        )
      }
      const { rows } = await setting.pool.query(
        "SELECT name, until > now() + $2::float8 * interval '1 millisecond' AS is_long FROM lease_counts WHERE ns = $1 AND until IS NOT NULL",
        [namespace, DEFINITION_MS],
      )
      expect(rows.map((row) => row.is_long)).to.deep.equal([true, true, true])
      const left = async (): Promise<string[]> => {
        await collect(setting.pool, { namespace, retention: 10_000 })
        const all = await setting.pool.query<{ name: string }>('SELECT name FROM lease_counts WHERE ns = $1', [
          namespace,
        ])
        return all.rows.map((row) => row.name).toSorted()
      }
      const sorted = (...all: string[]): string[] => all.map((one) => `${one}#`).toSorted()
      expect(await left()).to.deep.equal(sorted(...Object.values(names)))
      await setting.pool.query(
        `UPDATE lease_counts SET until = now() - interval '11 s' WHERE ns = $1 AND until IS NOT NULL`,
        [namespace],
      )
      expect(await left()).to.deep.equal(sorted(names.used, names.awaited, names.defined))
      await setting.pool.query('DELETE FROM lease_waiter WHERE ns = $1', [namespace])
      expect(await left()).to.deep.equal(sorted(names.used, names.defined))
    })

    it('keep a share that counts, however old, until its weight was cleared', async () => {
      const { fencingToken } = await grant(substrate, share(name, 'a'))
      await settle(substrate, release(`${name}#a`, 'a', { fencingToken }))
      await setting.age(`${name}#a`)
      await beside([['SELECT FROM lease_counts WHERE name = $1 FOR UPDATE', `${name}#`]], async () => {
        expect(await collect(setting.pool, { namespace, retention: 10_000 })).to.equal(0)
      })
      expect(await setting.row(`${name}#a`)).to.include({ weight: -1 })
      expect(await collect(setting.pool, { namespace, retention: 10_000 })).to.equal(1)
      expect(await counts()).to.include({ used: '0' })
    })

    it('lose no room to shares that an earlier release has ended, or has removed', async () => {
      const capacity = 2
      const held = await grant(substrate, share(name, 'a', { capacity }))
      await grant(substrate, share(name, 'b', { capacity }))
      await setting.pool.query('UPDATE lease SET holder = NULL, value = NULL WHERE ns = $1 AND name = $2', [
        namespace,
        `${name}#a`,
      ])
      await setting.pool.query('DELETE FROM lease WHERE ns = $1 AND name = $2', [namespace, `${name}#b`])
      await lookAgain()
      for (const holder of ['c', 'd']) await grant(substrate, share(name, holder, { capacity }))
      expect(await once(substrate, share(name, 'e', { capacity }))).to.include({ outcome: 'refused' })
      expect(await readOne(substrate, `${name}#a`)).to.equal(undefined)
      expect(held.weight).to.equal(1)
    })

    // ── the queue ─────────────────────────────────────────────────────────────────────────────────────────────────

    for (const isolation of ['read committed', 'repeatable read', 'serializable']) {
      it(`let nobody who waits miss that there is room, no matter who comes first, where transactions are ${isolation}`, async function () {
        this.timeout(300_000)
        const options = `-c default_transaction_isolation=${isolation.replace(' ', '\\ ')}`
        const pool = setting.newPool({ options })
        const holder = setting.substrate({ namespace, pool, listen: false })
        const waiting = setting.substrate({ namespace, pool })
        const call = callOfOwn()
        const heard: LeaseChange[] = []
        const stop = waiting.watch?.((change) => void heard.push(change), call.client)
        await eventually(() => heard.length > 0, 'the connection that listens')
        const pause = (): Promise<unknown> => (Math.random() < 0.6 ? sleep(Math.random() * 4) : Promise.resolve())
        let waited = 0
        try {
          for (let round = 0; round < ROUNDS; round++) {
            const own = `${name}-${round}`
            const capacity = 2
            // There is room for the one that waits only when both are over.
            const tokens = [
              await grant(holder, share(own, 'a', { capacity })),
              await grant(holder, share(own, 'b', { capacity })),
            ].map(({ fencingToken }) => fencingToken)
            const isEarly = Math.random() < 0.5
            const claims = async (): Promise<void> => {
              if (!isEarly) await pause()
              for (;;) {
                const verdict = await once(waiting, share(own, 'w', { capacity, weight: 2, place: 0 }), call)
                if (verdict.outcome === 'unknown') throw verdict.cause
                if (verdict.outcome === 'granted') return
                if (verdict.outcome === 'contended') await sleep(Math.random() * 3)
                else {
                  waited++
                  const isWord = (change: LeaseChange): boolean =>
                    change.kind === 'vacated' && change.lease.startsWith(`${own}#`)
                  await eventually(async () => {
                    if (!heard.some(isWord)) return false
                    heard.splice(0)
                    return (
                      (await settle(holder, share(own, 'w', { capacity, weight: 2, place: verdict.ticket?.place })))
                        .outcome === 'granted'
                    )
                  }, 'word of the room')
                  return
                }
              }
            }
            const releases = async (which: 'a' | 'b', token: bigint | undefined): Promise<void> => {
              if (!isEarly) await pause()
              await settle(holder, release(`${own}#${which}`, which, { fencingToken: token }))
            }
            const claiming = claims()
            if (isEarly) await sleep(8)
            await Promise.all([claiming, releases('a', tokens[0]), releases('b', tokens[1])])
          }
        } finally {
          stop?.()
        }
        expect(waited, 'how many waited').to.be.greaterThan(0)
      })
    }

    it('are claimed once more by one who waits where transactions are repeatable read, and the end of a share came just before', async () => {
      const pool = setting.newPool({ options: '-c default_transaction_isolation=repeatable\\ read' })
      const waiting = setting.substrate({ namespace, pool, listen: false })
      await grant(substrate, share(name, 'a'))
      // As a release does that finds nobody in the queue.
      await beside(
        [
          ['SELECT FROM lease_counts WHERE name = $1 FOR SHARE', `${name}#`],
          ['UPDATE lease SET holder = NULL, value = NULL, weight = -weight WHERE name = $1', `${name}#a`],
        ],
        async (other) => {
          const claiming = once(waiting, share(name, 'w', { place: 0 }))
          let answered = false
          void claiming.finally(() => (answered = true))
          await eventually(async () => answered || (await setting.isWaitedFor(other)))
          await other.query('COMMIT')
          expect((await claiming).outcome).to.be.oneOf(['granted', 'contended'])
        },
      )
    })

    it('keep those who register, and those who end a share, apart: the one that comes later knows of the other', async () => {
      const { fencingToken } = await grant(substrate, share(name, 'a'))
      const { ticket } = await once(substrate, share(name, 'w', { place: 0 }))
      // As a claim does that is about to get a ticket.
      await beside([['SELECT FROM lease_counts WHERE name = $1 FOR UPDATE', `${name}#`]], async (other) => {
        const releasing = settle(substrate, release(`${name}#a`, 'a', { fencingToken }))
        await Promise.race([setting.waitedFor(other), releasing])
        await other.query(
          `INSERT INTO lease_waiter (ns, name, place, client, until, weight) VALUES ($1, $2, $3, 'another', now() + interval '1 hour', 1)`,
          [namespace, `${name}#`, (ticket?.place ?? 0) + 1],
        )
        await other.query('COMMIT')
        expect(await releasing).to.include({ outcome: 'granted', told: (ticket?.place ?? 0) + 1 })
      })
    })

    it('are notified of room by the ends of shares that make it, and not by others that come at the same moment', async () => {
      const capacity = 3
      const held = new Map<string, Holding>()
      for (const holder of ['a', 'b', 'c']) held.set(holder, await grant(substrate, share(name, holder, { capacity })))
      const { ticket } = await once(substrate, share(name, 'w', { capacity, weight: 3, place: 0 }), callOfOwn())
      await setting.pool.query(
        `CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.05); RETURN NEW; END $$;
         CREATE TRIGGER linger BEFORE UPDATE ON lease FOR EACH ROW EXECUTE FUNCTION linger()`,
      )
      try {
        const released = (holder: string): Promise<Verdict> =>
          settle(substrate, release(`${name}#${holder}`, holder, { fencingToken: held.get(holder)?.fencingToken }))
        const both = await Promise.all(['a', 'b'].map(released))
        expect(both.map(({ outcome, told }) => [outcome, told])).to.deep.equal([
          ['granted', undefined],
          ['granted', undefined],
        ])
        expect(await released('c')).to.include({ outcome: 'granted', told: ticket?.place })
      } finally {
        await setting.pool.query('DROP TRIGGER linger ON lease; DROP FUNCTION linger')
      }
    })

    it('are notified of by anyone who leaves the queue, and keep their turn while one that had it does not fit', async () => {
      const { fencingToken } = await grant(substrate, share(name, 'a', { capacity: 2 }))
      await grant(substrate, share(name, 'b', { capacity: 2 }))
      const call = callOfOwn()
      const places: number[] = []
      for (const weight of [2, 1, 1]) {
        const { ticket } = await once(
          substrate,
          share(name, `w${places.length}`, { capacity: 2, weight, place: 0 }),
          call,
        )
        places.push(ticket?.place ?? expect.fail())
      }
      const [first = 0, second = 0, third = 0] = places
      const released = await settle(substrate, release(`${name}#a`, 'a', { fencingToken }))
      expect(released).to.not.have.property('told') // the first needs more
      const passedOver = await settle(substrate, { kind: 'passOver', lease: `${name}#`, place: second })
      expect(passedOver.told).to.equal(undefined)
      expect((await setting.pool.query('SELECT FROM lease_waiter WHERE ns = $1', [namespace])).rowCount).to.equal(3)
      expect(await once(substrate, { kind: 'leave', lease: `${name}#`, place: first }, call)).to.include({
        outcome: 'granted',
        told: third,
      })
      expect(await settle(substrate, { kind: 'passOver', lease: `${name}#`, place: second })).to.include({
        told: third,
      })
      expect(await once(substrate, share(name, 'w2', { capacity: 2, place: third }), call)).to.include({
        outcome: 'granted',
      })
      expect((await setting.pool.query('SELECT FROM lease_waiter WHERE ns = $1', [namespace])).rowCount).to.equal(0)
    })

    it('are notified by every way to end a share', async () => {
      for (const [how, end] of Object.entries(ended)) {
        if (how === 'lapsed') continue
        name = unique('counted')
        const held = await grant(substrate, share(name, 'a'))
        const { ticket } = await once(substrate, share(name, 'w', { place: 0 }), callOfOwn())
        await end(held)
        // Only its answer shows it: nobody listens here.
        const { rows } = await setting.pool.query('SELECT place::float8 FROM lease_waiter WHERE name = $1', [
          `${name}#`,
        ])
        expect(rows, how).to.deep.equal([{ place: ticket?.place }])
      }
      const ways: Readonly<Record<string, (lease: string) => Promise<Verdict>>> = {
        release: async (lease) =>
          settle(substrate, release(lease, 'a', { fencingToken: (await readOne(substrate, lease))?.fencingToken })),
        withdrawal: (lease) => settle(substrate, release(lease, 'a', { nonce: `nonce-of-${lease}` })),
        expiry: async (lease) => {
          await setting.lapse(lease)
          return settle(substrate, expire(lease))
        },
        pin: async (lease) => {
          await setting.lapse(lease)
          return settle(substrate, pin(lease, 'e'))
        },
        unpin: async (lease) => {
          await settle(substrate, pin(lease, 'e', 'g'))
          await setting.lapse(lease)
          return settle(substrate, unpin(lease, 'e', 'g'))
        },
      }
      for (const [way, vacate] of Object.entries(ways)) {
        name = unique('counted')
        await grant(substrate, share(name, 'a', { nonce: `nonce-of-${name}#a` }))
        const { ticket } = await once(substrate, share(name, 'w', { place: 0 }), callOfOwn())
        expect(await vacate(`${name}#a`), way).to.include({ outcome: 'granted', told: ticket?.place })
      }
    })

    // ── beside others ─────────────────────────────────────────────────────────────────────────────────────────────

    it('delay no lease: while their table is locked, leases are claimed, waited for, extended, pinned and released', async () => {
      await beside([['LOCK TABLE lease_counts IN ACCESS EXCLUSIVE MODE']], async () => {
        const { fencingToken, nonce } = await grant(substrate, claim('l', 'a', longMs))
        await once(substrate, claim('l', 'b', longMs))
        await once(substrate, claim('l', 'b', longMs, { place: 0 }))
        await grant(substrate, extend('l', 'a', longMs, { fencingToken, value: 'v' }))
        await settle(substrate, pin('l', 'e', 'g'))
        await settle(substrate, unpin('l', 'e', 'g'))
        await settle(substrate, { kind: 'leave', lease: 'l', place: 1 })
        await grantedTo(release('l', 'a', { fencingToken, nonce }))
        await settle(substrate, expire('l'))
        await settle(substrate, release('l', 'a', { nonce }))
      })
    })

    it('that somebody else has locked delay no other of a batch, and nothing is done to their shares', async () => {
      const other = unique('counted')
      const tokens = new Map<string, bigint>()
      for (const one of [name, other]) {
        for (const holder of ['a', 'b']) {
          tokens.set(`${one}#${holder}`, (await grant(substrate, share(one, holder, { capacity: 2 }))).fencingToken)
        }
      }
      const [plain, token] = [unique('lease'), (lease: string) => tokens.get(lease)]
      const { fencingToken } = await grant(substrate, claim(plain, 'a', longMs))
      await setting.lapse(`${name}#b`, `${other}#b`)
      await beside([['SELECT FROM lease_counts WHERE name = $1 FOR UPDATE', `${name}#`]], async () => {
        const outcomes = async (...ops: Op[]): Promise<string[]> =>
          (await substrate.apply(ops, newCall())).map(({ outcome }) => outcome)
        const released = [name, other].map((one) => release(`${one}#a`, 'a', { fencingToken: token(`${one}#a`) }))
        expect(await outcomes(...released, release(plain, 'a', { fencingToken }))).to.deep.equal([
          'contended',
          'granted',
          'granted',
        ])
        expect(await outcomes(...[name, other].map((one) => expire(`${one}#b`)))).to.deep.equal([
          'contended',
          'granted',
        ])
        expect(await outcomes(...[name, other].map((one) => pin(`${one}#b`, 'e')))).to.deep.equal([
          'contended',
          'granted',
        ])
        expect(await outcomes(...[name, other].map((one) => share(one, 'c', { capacity: 2 })))).to.deep.equal([
          'contended',
          'granted',
        ])
        expect(await outcomes(share(name, 'c', { capacity: 2 }))).to.deep.equal(['contended'])
        expect(await outcomes(define(name, 5), define(other, undefined))).to.deep.equal(['contended', 'refused'])
        const leaving = [name, other].map((one) => ({ kind: 'leave', lease: `${one}#`, place: 1 }) as const)
        expect(await outcomes(...leaving)).to.deep.equal(['contended', 'granted'])
        const passing = [name, other].map((one) => ({ kind: 'passOver', lease: `${one}#`, place: 1 }) as const)
        expect(await outcomes(...passing)).to.deep.equal(['contended', 'granted'])
        expect(await readOne(substrate, `${name}#a`)).to.include({ holder: 'a' })
      })
    })

    it('weigh what their counted lease says, and none lapses before it looks for that, whatever meets', async function () {
      this.timeout(300_000)
      const pool = setting.newPool({ max: 6 })
      const one = setting.substrate({ namespace, pool, listen: false })
      const held = new Map<string, bigint>()
      const any = <T>(...list: readonly T[]): T => list[Math.floor(Math.random() * list.length)] as T
      const next = (): Op => {
        const holder = any('a', 'b', 'c', 'd', 'e')
        const lease = `${name}#${holder}`
        const fencingToken = held.get(lease) ?? 0n
        const wants = { capacity: 4, weight: any(1, 2, 3), durationMs: any(5, 20, 60, longMs) }
        return any<() => Op>(
          () => share(name, holder, wants),
          () => share(name, holder, wants),
          () => share(name, holder, { ...wants, durationMs: 5 }),
          () => release(lease, holder, { fencingToken }),
          () => extend(lease, holder, any(5, 50), { fencingToken }),
          () => expire(lease),
          () => pin(lease, 'e', 'g'),
          () => unpin(lease, 'e', 'g'),
        )()
      }
      const work = async (): Promise<void> => {
        for (let turn = 0; turn < 4 * ROUNDS; turn++) {
          const op = next()
          const { outcome, holding, cause } = await once(one, op)
          if (outcome === 'unknown') throw cause
          if (outcome === 'granted' && holding !== undefined) held.set(op.lease, holding.fencingToken)
        }
      }
      const over = new AbortController()
      const look = async (): Promise<void> => {
        for (let looks = 0; !over.signal.aborted || looks === 0; looks++) {
          const { rows } = await setting.pool.query(
            `SELECT c.used::int, coalesce(sum(abs(l.weight)), 0)::int AS weight, coalesce(extract(epoch FROM min(l.expiry)
               FILTER (WHERE l.weight > 0 AND l.pins = '{}')) * 1000000 < c.sweep, false) AS is_missed
             FROM lease_counts c LEFT JOIN lease l ON l.ns = c.ns AND l.name LIKE c.name || '%'
             WHERE c.ns = $1 GROUP BY c.used, c.sweep`,
            [namespace],
          )
          for (const { used, weight, is_missed: isMissed } of rows) {
            expect({ used, isMissed }).to.deep.equal({ used: weight, isMissed: false })
          }
        }
      }
      const working = Promise.all([work(), work(), work(), work()]).finally(() => over.abort())
      await Promise.all([working, look()])
    })

    it('never deadlock, and never exceed the capacity, where batches of claims and releases cross', async function () {
      this.timeout(300_000)
      const names = Array.from({ length: 4 }, () => unique('counted'))
      const capacity = 3
      const pool = setting.newPool({ max: 12 })
      const workers = Array.from({ length: 6 }, (_, worker) => async (): Promise<void> => {
        const one = setting.substrate({ namespace, pool, listen: false })
        const holder = `h${worker}`
        for (let turn = 0; turn < ROUNDS; turn++) {
          const wanted = names.toSorted(() => Math.random() - 0.5).slice(0, 1 + Math.floor(Math.random() * 4))
          const claims = wanted.map((each) => share(each, holder, { capacity, weight: 1 + (worker % 3) }))
          const verdicts = await one.apply(claims, newCall())
          for (const { outcome, cause } of verdicts) if (outcome === 'unknown') throw cause
          const held = wanted.filter((_each, index) => verdicts[index]?.outcome === 'granted')
          for (const each of held) {
            const { shares } = await one.counted(`${each}#`, newCall())
            const sum = [...shares.values()].reduce((before, { weight = 0 }) => before + weight, 0)
            expect(sum).to.be.at.most(capacity)
          }
          for (let left = held; left.length > 0;) {
            const ops = left.map((each) =>
              release(`${each}#${holder}`, holder, { nonce: claims[wanted.indexOf(each)]?.nonce }),
            )
            const released = await one.apply(ops, newCall())
            for (const { outcome, cause } of released) if (outcome === 'unknown') throw cause
            left = left.filter((_each, index) => released[index]?.outcome !== 'granted')
          }
        }
      })
      const deadlocks = async (): Promise<number> => {
        await setting.pool.query('SELECT pg_stat_clear_snapshot()')
        const { rows } = await setting.pool.query(
          'SELECT deadlocks::int FROM pg_stat_database WHERE datname = current_database()',
        )
        return rows[0].deadlocks
      }
      const before = await deadlocks()
      await Promise.all(workers.map((work) => work()))
      expect((await deadlocks()) - before).to.equal(0)
    })
  })
}

import { expect } from 'chai'
import { ErrNotHeld } from 'lease-core'
import { enough, postgresTargets, until } from 'lease-servers'
import { SqlGuard, type PostgresSubstrate } from 'lease-postgres'
import type { PoolClient } from 'pg'
import { briefMs, claim, newCall, release, settle, sleep, unique } from 'lease-scenes'
import { openSetting, type Setting } from './setting.ts'

/** Writes the token to the account inside a transaction, if the guard lets it. */
type Write = (
  substrate: PostgresSubstrate,
  client: PoolClient,
  lease: string,
  holder: string,
  token: bigint,
) => Promise<void>

const update = 'UPDATE account SET token = $1 WHERE lease = $2'

const writes: Record<string, Write> = {
  'a connection as key': async (substrate, client, lease, holder, token) => {
    await substrate.trapdoor(lease, holder, token)(client)
    await pause()
    await client.query(update, [String(token), lease])
  },
  'a SqlGuard': async (substrate, client, lease, holder, token) => {
    const guard = new SqlGuard(3)
    await substrate.trapdoor(lease, holder, token)(guard)
    await pause()
    const { rowCount } = await client.query(`${update} AND ${guard.text}`, [String(token), lease, ...guard.values])
    guard.assertHeld(rowCount)
  },
  'a check before the write instead': async (substrate, client, lease, holder, token) => {
    const held = (await substrate.read([lease], newCall())).get(lease)
    if (held?.holder !== holder || held.fencingToken !== token) throw new ErrNotHeld('not held')
    await pause()
    await client.query(update, [String(token), lease])
  },
}

/** What has happened in a race so far. */
interface Course {
  granted: number
  committed: number
  refused: number
  /** Writes that were committed after a newer grant, or over a newer write. */
  violations: number
}

const GRANTS = enough(400)

for (const target of postgresTargets()) {
  describe(`stale holders in a race, on ${target.name}`, () => {
    let setting: Setting
    before(async () => {
      setting = await openSetting(target)
      // Everyone writes down what happened in the transaction in which it happened: the server knows when that committed.
      await setting.pool.query(`
        CREATE TABLE account (lease text PRIMARY KEY, token bigint NOT NULL);
        CREATE TABLE granted (lease text, token bigint);
        CREATE INDEX ON granted (lease);
        CREATE TABLE written (lease text, token bigint, previous bigint);
        CREATE FUNCTION note_grant() RETURNS trigger LANGUAGE plpgsql AS
          'BEGIN INSERT INTO public.granted VALUES (NEW.name, NEW.token); RETURN NULL; END';
        CREATE TRIGGER note_first AFTER INSERT ON lease FOR EACH ROW EXECUTE FUNCTION note_grant();
        CREATE TRIGGER note_next AFTER UPDATE ON lease FOR EACH ROW WHEN (OLD.token <> NEW.token) EXECUTE FUNCTION note_grant();
        CREATE FUNCTION note_write() RETURNS trigger LANGUAGE plpgsql AS
          'BEGIN INSERT INTO written VALUES (NEW.lease, NEW.token, OLD.token); RETURN NULL; END';
        CREATE TRIGGER note_write AFTER UPDATE ON account FOR EACH ROW EXECUTE FUNCTION note_write();`)
    })
    after(() => setting[Symbol.asyncDispose]())

    async function violationsOn(leases: readonly string[]): Promise<number> {
      const { rows: settings } = await setting.pool.query('SHOW track_commit_timestamp')
      const { rows } = await setting.pool.query(
        `SELECT count(*)::int AS violations FROM written w WHERE w.lease = ANY($1) AND (w.token < w.previous ${
          settings[0].track_commit_timestamp === 'on'
            ? `OR EXISTS (SELECT FROM granted g WHERE g.lease = w.lease AND g.token > w.token
                 AND pg_xact_commit_timestamp(g.xmin) < pg_xact_commit_timestamp(w.xmin))`
            : ''
        })`,
        [leases],
      )
      return rows[0].violations
    }

    /** Workers claim for a few milliseconds, or a few more, dawdle, and write; some release, some just stop. */
    async function race(write: Write, isEnough: (course: Course) => boolean): Promise<Course> {
      const namespace = unique('ns')
      const leases = Array.from({ length: 12 }, () => unique('lease'))
      await setting.pool.query('INSERT INTO account SELECT unnest($1::text[]), 0', [leases])
      const pool = setting.newPool({ max: 24 })
      const course = { granted: 0, committed: 0, refused: 0, violations: 0 }
      const end = new AbortController()
      const worker = async (holder: string): Promise<void> => {
        const substrate = setting.substrate({ namespace, pool: setting.newPool({ max: 1 }) })
        for (let turn = 0; !end.signal.aborted; turn++) {
          const lease = leases[turn % leases.length] ?? ''
          const durationMs = briefMs()
          const [verdict] = await substrate.apply([claim(lease, holder, durationMs)], newCall())
          const token = verdict?.outcome === 'granted' ? verdict.holding?.fencingToken : undefined
          if (token === undefined) continue
          course.granted++
          const client = await pool.connect()
          try {
            await client.query('BEGIN')
            await write(substrate, client, lease, holder, token)
            await pause()
            await client.query('COMMIT')
            course.committed++
          } catch (error) {
            await client.query('ROLLBACK')
            if (!(error instanceof ErrNotHeld)) throw error
            course.refused++
          } finally {
            client.release()
          }
          if (Math.random() < 0.3) await settle(substrate, release(lease, holder, { fencingToken: token }))
        }
      }
      const referee = async (): Promise<void> => {
        const look = async (): Promise<boolean> => {
          course.violations = await violationsOn(leases)
          return end.signal.aborted || isEnough(course)
        }
        await until('enough has happened in the race', look, 100)
        end.abort()
      }
      try {
        await Promise.all([referee(), ...Array.from({ length: 16 }, (_, index) => worker(`w${index}`))])
      } finally {
        end.abort()
      }
      return { ...course, violations: await violationsOn(leases) }
    }

    for (const key of ['a connection as key', 'a SqlGuard']) {
      it(`with ${key} never commit after a newer grant, over hundreds of grants`, async () => {
        const { violations } = await race(
          writes[key] ?? expect.fail(),
          // Without a guard, 40 to 100 grants are enough for a violation.
          ({ granted, committed, refused, violations }) =>
            violations > 0 || (granted >= GRANTS && committed >= 30 && refused >= 30),
        )
        expect(violations).to.equal(0)
      })
    }

    it('do so without a guard: this race would show it', async () => {
      const write = writes['a check before the write instead'] ?? expect.fail()
      const { violations } = await race(write, (course) => course.violations > 0)
      expect(violations).to.be.greaterThan(0)
    })
  })
}

/** Shorter or longer than the lease. */
function pause(): Promise<void> {
  return sleep(Math.random() * 12)
}

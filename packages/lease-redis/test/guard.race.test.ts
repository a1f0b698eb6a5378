import { expect } from 'chai'
import type { Redis } from 'ioredis'
import { ErrNotHeld } from 'lease-core'
import { enough, redisTargets, until } from 'lease-servers'
import { RedisGuard, type RedisSubstrate } from 'lease-redis'
import { briefMs, claim, extend, newCall, release, settle, sleep, unique } from 'lease-scenes'
import { openSetting, type Setting } from './setting.ts'

/** One attempt of a holder to write its token down. */
interface Attempt {
  readonly substrate: RedisSubstrate
  /** Of this worker alone. */
  readonly connection: Redis
  readonly lease: string
  readonly holder: string
  readonly token: bigint
  /** What was written last, and all that happened in order. */
  readonly keys: [account: string, log: string]
}

/** In one step, so that the order of the log is the order of the writes. */
const write = `redis.call('SET', KEYS[1], ARGV[1]) return redis.call('RPUSH', KEYS[2], 'write ' .. ARGV[1])`

async function armed({ substrate, lease, holder, token }: Attempt): Promise<RedisGuard> {
  const guard = new RedisGuard()
  await substrate.trapdoor(lease, holder, token)(guard)
  return guard
}

const writes: Record<string, (attempt: Attempt) => Promise<unknown>> = {
  'run()': async (attempt) => {
    const guard = await armed(attempt)
    await pause()
    await guard.run(attempt.connection, write, attempt.keys, [String(attempt.token)])
  },
  'transaction()': async (attempt) => {
    const { connection, keys, token } = attempt
    const guard = await armed(attempt)
    await pause()
    await guard.transaction(connection, async (multi) => {
      await sleep(Math.random() * 3)
      multi.set(keys[0], String(token)).rpush(keys[1], `write ${token}`)
    })
  },
  'a connection as key': async ({ substrate, lease, holder, token, connection, keys }) => {
    for (let results: unknown = null; results === null;) {
      await substrate.trapdoor(lease, holder, token)(connection)
      await pause()
      results = await connection.multi().set(keys[0], String(token)).rpush(keys[1], `write ${token}`).exec()
    }
  },
  'a check before the write instead': async ({ substrate, lease, holder, token, connection, keys }) => {
    const held = (await substrate.read([lease], newCall())).get(lease)
    if (held?.holder !== holder || held.fencingToken !== token) throw new ErrNotHeld('not held')
    await pause()
    await connection.eval(write, 2, ...keys, String(token))
  },
}

const CHANGES = enough(400)

for (const target of redisTargets('server')) {
  describe(`stale holders in a race, on ${target.name}`, () => {
    let setting: Setting
    before(() => (setting = openSetting(target.url)))
    after(() => setting[Symbol.asyncDispose]())

    interface Outcome {
      readonly written: number
      readonly refused: number
      /** Writes that came after a newer grant was noted, or after a newer write. */
      readonly regressions: number
      /** How often a lease changed hands. */
      readonly changes: number
    }

    /**
     * Workers claim for a few milliseconds, or a few more, dawdle, and write; some renew or release, most just stop. Goes on
     * until enough has happened, however long that takes.
     */
    async function race(way: string, enough: (outcome: Outcome) => boolean): Promise<Outcome> {
      const attemptToWrite = writes[way] ?? expect.fail()
      const namespace = unique('race')
      const leases = Array.from({ length: 12 }, () => unique('lease'))
      const logOf = (lease: string): string => `${namespace}:${lease}:log`
      let written = 0
      let refused = 0
      const worker = (holder: string): ((turns: number) => Promise<void>) => {
        const connection = setting.connect({ retryStrategy: null })
        const substrate = setting.substrate({ namespace, redis: setting.connect() })
        let turn = 0
        return async (turns) => {
          for (const last = turn + turns; turn < last; turn++) {
            const lease = leases[turn % leases.length] ?? ''
            const keys: Attempt['keys'] = [`${namespace}:${lease}:account`, logOf(lease)]
            const durationMs = briefMs()
            const [verdict] = await substrate.apply([claim(lease, holder, durationMs)], newCall())
            const token = verdict?.outcome === 'granted' ? verdict.holding?.fencingToken : undefined
            if (token === undefined) continue
            await setting.redis.rpush(keys[1], `grant ${token}`)
            if (Math.random() < 0.3)
              await substrate.apply([extend(lease, holder, durationMs, { fencingToken: token })], newCall())
            try {
              await attemptToWrite({ substrate, connection, lease, holder, token, keys })
              written++
            } catch (error) {
              if (!(error instanceof ErrNotHeld)) throw error
              refused++
            }
            if (Math.random() < 0.3) await settle(substrate, release(lease, holder, { fencingToken: token }))
          }
        }
      }
      const workers = Array.from({ length: 16 }, (_, index) => worker(`w${index}`))
      return until('enough writes, refusals and changes of hands', async () => {
        await Promise.all(workers.map((work) => work(40)))
        const outcome = { written, refused, ...(await judged(leases.map(logOf))) }
        return enough(outcome) && outcome
      })
    }

    /** What the logs say. */
    async function judged(logs: readonly string[]): Promise<Pick<Outcome, 'regressions' | 'changes'>> {
      let regressions = 0
      let changes = 0
      for (const log of logs) {
        let newest = 0n
        for (const line of await setting.redis.lrange(log, 0, -1)) {
          const [what, digits = ''] = line.split(' ')
          const token = BigInt(digits)
          if (what === 'write' && token < newest) regressions++
          if (what === 'grant' && token > newest) changes++
          if (token > newest) newest = token
        }
      }
      return { regressions, changes }
    }

    for (const way of ['run()', 'transaction()', 'a connection as key']) {
      it(`by ${way} never write after a newer grant, over ${CHANGES} changes of hands`, async () => {
        const { regressions } = await race(
          way,
          ({ written, refused, changes }) => changes >= CHANGES && written >= 50 && refused >= 50,
        )
        expect(regressions).to.equal(0)
      })
    }

    it('do so without a guard: this race would show it', async () => {
      const { regressions } = await race('a check before the write instead', (outcome) => outcome.regressions > 0)
      expect(regressions).to.be.greaterThan(0)
    })
  })
}

/** Shorter or longer than the lease. */
function pause(): Promise<void> {
  return sleep(Math.random() * 12)
}

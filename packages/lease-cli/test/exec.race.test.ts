import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect } from 'chai'
import { isMatrix, programOf, until } from 'lease-servers'
import { signalTo } from '#src/process-group.ts'
import { endRuns, isRunning, LeaseRun } from './lease-run.ts'
import { testServers, unique, type TestServer } from './stores.ts'

/** What befalls the one that runs the job: `lease exec` or its guardian. */
const STRIKES = ['kill lease', 'stop lease', 'kill guardian', 'end lease'] as const
const ROUNDS = 50
const PAIRS = 4
const JOB = programOf('./race.program.ts', import.meta.url)

const redis = testServers().find(({ name }) => name === 'redis') as TestServer

describe('two lease exec that contend for one job', () => {
  if (!isMatrix()) return // each round takes as long as a lease

  let folder: string
  let env: Record<string, string>

  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'lease-cli-'))
    env = { LEASE_URL: await redis.open(), LEASE_NAMESPACE: unique() }
  })
  after(async () => {
    await endRuns()
    rmSync(folder, { recursive: true })
  })

  it(`never run it at once, in ${ROUNDS * PAIRS} rounds in which one of them is killed or stopped`, async function () {
    this.timeout(0)
    const rounds = Array.from({ length: PAIRS }, (_, pair) => race(pair))
    await Promise.all(rounds)
  })

  async function race(pair: number): Promise<void> {
    const own = mkdtempSync(join(folder, 'pair-'))
    const start = (): LeaseRun =>
      new LeaseRun(
        [
          'exec',
          `job-${pair}`,
          '--wait',
          '--duration',
          '5s',
          '--kill-after',
          '2500ms',
          '--',
          process.execPath,
          ...JOB,
          own,
        ],
        env,
      )
    const runs = [start(), start()]
    for (let round = 0; round < ROUNDS; round++) {
      const active = await until('one of the two runs the job', () => {
        for (const [index, run] of runs.entries()) {
          expect(run.stdout).to.not.contain('overlap')
          if (!run.hasEnded) continue
          // On a slow machine a renewal may miss its time, and the job is stopped: that is no fault.
          expect(run.child.exitCode, run.stderr).to.equal(124)
          runs[index] = start()
        }
        return runs.find(({ stdout }) => stdout.includes('running'))
      })
      if (process.env['LEASE_TEST_FIGURES'] !== undefined) console.log(`      pair ${pair}: round ${round + 1}`)
      await strike(active, STRIKES[round % STRIKES.length])
      runs.splice(runs.indexOf(active), 1, start())
    }
    for (const run of runs) run.kill('SIGTERM')
    await Promise.all(runs.map(({ code }) => code))
  }

  /** Resolves when this one is over. */
  async function strike(run: LeaseRun, kind: (typeof STRIKES)[number] | undefined): Promise<void> {
    const guardian = Number(await run.line(/guardian (\d+)/))
    if (kind === 'kill lease') run.kill('SIGKILL')
    else if (kind === 'kill guardian') signalTo(guardian, 'SIGKILL')
    else if (kind === 'end lease') run.kill('SIGTERM')
    else {
      run.kill('SIGSTOP')
      const pid = Number(await run.line(/running (\d+)/))
      await until('the guardian has ended the job', async () => !(await isRunning(pid)))
      run.kill('SIGCONT')
    }
    await run.code
  }
})

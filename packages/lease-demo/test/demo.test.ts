import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { stripVTControlCharacters } from 'node:util'
import { expect } from 'chai'
import { isMatrix, programOf } from 'lease-servers'
import { DynamodbGround, EtcdGround, type Ground, PostgresGround, RedisGround } from './grounds.ts'

interface Ended {
  readonly exitCode: number | null
  readonly stdout: string
  readonly stderr: string
}

/** A run of the demo on a ground, and what it has left there. */
interface Played extends Ended {
  readonly leftovers: readonly string[]
}

function startProgram(args: readonly string[], env: NodeJS.ProcessEnv = {}): ChildProcess {
  return spawn(process.execPath, [...programOf('../src/main.ts', import.meta.url), ...args], {
    env: { ...process.env, NO_COLOR: '', FORCE_COLOR: undefined, COLUMNS: undefined, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
}

async function end(demo: ChildProcess, onOutput: (soFar: string) => void = () => {}): Promise<Ended> {
  let stdout = ''
  let stderr = ''
  demo.stdout?.setEncoding('utf8').on('data', (text: string) => onOutput((stdout += text)))
  demo.stderr?.setEncoding('utf8').on('data', (text: string) => (stderr += text))
  const [exitCode] = (await once(demo, 'close')) as [number | null]
  return { exitCode, stdout, stderr }
}

/** The output after the last disturbance, each event on one line: on a slow machine the demo may start again. */
function lastStory(stdout: string): string {
  return stdout.slice(stdout.lastIndexOf('The story starts again') + 1).replaceAll(/\n {4,}(?=\S)/g, ' ')
}

/** The longest line, as a terminal shows it. */
function widthOf(stdout: string): number {
  return Math.max(
    ...stripVTControlCharacters(stdout)
      .split('\n')
      .map((line) => line.length),
  )
}

/** Waits for a run that began earlier; a failure is reported by the test that waits. */
function later<T>(run: Promise<T>): Promise<T> {
  run.catch(() => undefined)
  return run
}

const cyanIsFrozen = 'SIGSTOP: cyan'

/** The runs on one ground, one after the other; those on other grounds run at the same time. */
class Runs {
  readonly guarded: Promise<Played>
  readonly nowhere: Promise<Ended>
  /** In the matrix only, as the next one: each story has five processes. */
  readonly unguarded?: Promise<Played>
  readonly stopped?: Promise<Played>

  constructor(ground: Ground, stoppedEnv: NodeJS.ProcessEnv) {
    const play = async (args: readonly string[], env: NodeJS.ProcessEnv = {}, stopAt?: string): Promise<Played> => {
      const demo = startProgram(['--on', ground.name, ...args], { ...ground.env, ...env })
      let told = false // a second signal ends it at once, untidily
      const ended = await end(demo, (soFar) => {
        if (!told && stopAt !== undefined && soFar.includes(stopAt)) told = demo.kill('SIGINT')
      })
      return { ...ended, leftovers: await ground.leftovers(demo.pid ?? 0) }
    }
    this.guarded = later(play([]))
    this.nowhere = later(end(startProgram(['--on', ground.name], ground.nowhere)))
    if (!isMatrix()) return
    const inTurn = (before: Promise<Played>, run: () => Promise<Played>): Promise<Played> =>
      later(before.then(run, run))
    this.unguarded = inTurn(this.guarded, async () => play(['--unguarded']))
    this.stopped = inTurn(this.unguarded, async () => play([], { ...stoppedEnv, COLUMNS: '60' }, cyanIsFrozen))
  }

  /** Resolves once all have ended. */
  async over(): Promise<void> {
    await Promise.allSettled([this.guarded, this.unguarded, this.stopped, this.nowhere])
  }
}

/** The story on a server that goes away in the middle. */
async function playCutOff(): Promise<Ended> {
  let cut: Promise<void> | undefined
  const ended = await end(startProgram([], doomed.env), (soFar) => {
    if (soFar.includes(cyanIsFrozen)) cut ??= doomed.close()
  })
  await cut
  return ended
}

/** What `stopped` runs with, whether it is coloured then, and what that shows. */
const colors = {
  postgres: [{ FORCE_COLOR: '1' }, true, 'on demand'],
  redis: [{ FORCE_COLOR: '1', NO_COLOR: '1' }, false, 'not even on demand against NO_COLOR'],
  etcd: [{ CI: 'true' }, false, 'not without a demand'],
  dynamodb: [{ CI: 'true' }, false, 'not without a demand'],
} as const

const postgres = new PostgresGround()
const grounds = [postgres, ...(isMatrix() ? [new RedisGround(), new EtcdGround(), new DynamodbGround()] : [])]
/** Its server goes away in the middle of the story. In the matrix only: that is one story more. */
const doomed = new PostgresGround()
const opened = isMatrix() ? [...grounds, doomed] : grounds

const matrixOnly = isMatrix() ? it : it.skip

describe('the demo', function () {
  const runs = new Map<Ground, Runs>()
  let cutOff: Promise<Ended> | undefined

  before(async () => {
    await Promise.all(opened.map(async (ground) => ground.open()))
    for (const ground of grounds) runs.set(ground, new Runs(ground, colors[ground.name][0]))
    if (isMatrix()) cutOff = later(playCutOff())
  })

  after(async () => {
    await Promise.allSettled([cutOff, ...Array.from(runs.values(), async (one) => one.over())])
    await Promise.all(opened.map(async (ground) => ground.close()))
  })

  for (const ground of grounds) {
    describe(`on ${ground.name}`, () => {
      const run = (name: 'guarded' | 'unguarded' | 'stopped'): Promise<Played> =>
        runs.get(ground)?.[name] ?? Promise.reject(new Error('not started'))

      it('with the guard: the stale write is refused, the leases of the frozen and the killed are taken over, the books balance', async () => {
        const { exitCode, stdout, stderr, leftovers } = await run('guarded')
        expect(stderr).to.equal('')
        expect(exitCode, stdout).to.equal(0)
        const story = lastStory(stdout)
        expect(story).to.match(/magenta +TAKES OVER alice #[\d,]+: the lease of cyan \(frozen\) has lapsed/)
        expect(story).to.match(/green +TAKES OVER dave #[\d,]+: the lease of blue \(killed\) has lapsed/)
        expect(story).to.match(/cyan +its stale write is REFUSED \(ErrNotHeld\): "cyan" does not hold lease "alice"/)
        expect(story).not.to.match(/#\d{5}/)
        expect(story).to.match(/… starting four worker processes[^]*… measuring[^]*1\. An ordinary day/)
        expect(story).to.match(/… waiting until the lease of the frozen worker has lapsed[^]*TAKES OVER alice/)
        expect(widthOf(stdout)).to.be.at.most(80)
        expect(story).to.match(/cyan +moved 30 from alice to bob: alice = 20, bob = 120/)
        expect(story).to.match(/is denied \w+: \w+ holds it; waits/)
        expect(story).to.include('✓ the money is all there: 400')
        expect(story).to.include('✓ fencing tokens never go back, in 14 entries')
        expect(story).to.include('The books balance.')
        expect(story).not.to.include('✗')
        expect(leftovers).to.deep.equal([])
      })

      matrixOnly(
        'without the guard: the stale write overwrites a newer one, and the exit code says that the books are broken',
        async () => {
          const { exitCode, stdout, stderr, leftovers } = await run('unguarded')
          expect(stderr).to.equal('')
          expect(exitCode, stdout).to.equal(1)
          const story = lastStory(stdout)
          // It is not written by a worker that knows better: the write is sent before the news arrives.
          expect(story).to.match(
            /cyan +sends its write[^]*cyan +moved 30 from alice to bob on a lapsed lease: OVERWROTE alice = 45/,
          )
          expect(story.split('cyan     sends its write')[0]).not.to.match(/cyan +learns that it lost/)
          expect(story).to.match(/Why: cyan checked its leases/)
          expect(widthOf(stdout)).to.be.at.most(80)
          expect(story).to.include('✗ the money is not right: it was 400 and is 425: 25 came from nowhere')
          expect(story).to.include('✗ an update was lost: alice has 45, its entries say 20')
          expect(story).to.include('✗ fencing tokens went back: on alice')
          expect(story).to.include('The books DO NOT balance (exit code 1).')
          expect(story).not.to.include('REFUSED')
          expect(leftovers).to.deep.equal([])
        },
      )

      matrixOnly('stopped in the middle, with a worker frozen: nothing stays behind', async () => {
        const { exitCode, stdout, stderr, leftovers } = await run('stopped')
        expect(exitCode).to.equal(130)
        expect(widthOf(stdout)).to.be.at.most(60)
        expect(stderr).to.include('stopped by SIGINT')
        expect(leftovers).to.deep.equal([])
        if (ground === postgres) await postgres.noConnections() // no process either
      })

      const [, colored, when] = colors[ground.name]
      matrixOnly(`is ${colored ? '' : 'not '}coloured: ${when}`, async () => {
        const { stdout } = await run('stopped')
        expect(stdout.includes('\u001B[')).to.equal(colored)
      })

      it('ends with a clear error of one line when the server is not there', async () => {
        const { exitCode, stderr } = (await runs.get(ground)?.nowhere) ?? expect.fail()
        const [variable] = Object.keys(ground.nowhere)
        expect(exitCode).to.equal(3)
        expect(stderr.trim()).to.match(/^lease-demo: the story could not be shown: .*ECONNREFUSED.*$/)
        expect(stderr).to.include(`name one that runs in ${variable}`)
      })
    })
  }

  matrixOnly('says how it is used; an option that it does not know is exit code 2', async () => {
    const [help, wrong] = await Promise.all(
      [['--help'], ['--unguarded=yes']].map(async (args) => end(startProgram(args))),
    )
    expect(help?.exitCode).to.equal(0)
    expect(help?.stdout).to.include('Usage: npx -y pnpm@10 demo')
    expect(wrong?.exitCode).to.equal(2)
    expect(wrong?.stderr).to.include('Usage: npx -y pnpm@10 demo')
    expect(wrong?.stdout).to.equal('')
  })

  matrixOnly('ends with a clear error when the server goes away in the middle', async () => {
    const { exitCode, stderr } = (await cutOff) ?? expect.fail()
    expect(exitCode).to.equal(3)
    expect(stderr).to.match(/lease-demo: the story could not be shown: worker \w+: /)
  })
})

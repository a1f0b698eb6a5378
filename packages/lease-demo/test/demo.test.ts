import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { expect } from 'chai'
import { EtcdGround, type Ground, PostgresGround, RedisGround } from './grounds.ts'

interface Ended {
  readonly exitCode: number | null
  readonly stdout: string
  readonly stderr: string
}

const main = fileURLToPath(new URL('../src/main.ts', import.meta.url))

function start(args: readonly string[], env: NodeJS.ProcessEnv = {}): ChildProcess {
  return spawn(process.execPath, ['--import', 'tsx', '--conditions', 'lease-source', main, ...args], {
    env: { ...process.env, ...env },
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

const postgres = new PostgresGround()

for (const ground of [postgres, new RedisGround(), new EtcdGround()] satisfies Ground[]) {
  describe(`the demo, on ${ground.name}`, function () {
    this.timeout(90_000)
    before(() => ground.open())
    after(() => ground.close())
    afterEach(async () => expect(await ground.leftovers()).to.deep.equal([]))

    const on = (...args: string[]): ChildProcess => start(['--on', ground.name, ...args], ground.env)

    it('with the guard: the stale write is refused, the leases of the frozen and the killed are taken over, the books balance', async () => {
      const { exitCode, stdout, stderr } = await end(on())
      expect(stderr).to.equal('')
      expect(exitCode, stdout).to.equal(0)
      expect(stdout).to.match(/magenta +TAKES OVER alice #\d+: the lease of cyan \(frozen\) has lapsed/)
      expect(stdout).to.match(/green +TAKES OVER dave #\d+: the lease of blue \(killed\) has lapsed/)
      expect(stdout).to.match(/cyan +its stale write is REFUSED \(ErrNotHeld\): "cyan" does not hold lease "alice"/)
      expect(stdout).to.match(/cyan +moved 30 from alice to bob: alice = 20, bob = 120/)
      expect(stdout).to.match(/is denied \w+: \w+ holds it; waits/)
      expect(stdout).to.include('✓ the money is all there: 400')
      expect(stdout).to.include('✓ fencing tokens never go back, in 14 entries')
      expect(stdout).to.include('The books balance.')
      expect(stdout).not.to.include('✗')
    })

    it('without the guard: the stale write overwrites a newer one, and the exit code says that the books are broken', async () => {
      const { exitCode, stdout, stderr } = await end(on('--unguarded'))
      expect(stderr).to.equal('')
      expect(exitCode, stdout).to.equal(1)
      expect(stdout).to.match(/cyan +moved 30 from alice to bob on a lapsed lease: OVERWROTE alice = 45/)
      expect(stdout).to.include('✗ the money is not right: it was 400 and is 425: 25 came from nowhere')
      expect(stdout).to.include('✗ an update was lost: alice has 45, its entries say 20')
      expect(stdout).to.include('✗ fencing tokens went back: on alice')
      expect(stdout).to.include('The books DO NOT balance (exit code 1).')
      expect(stdout).not.to.include('REFUSED')
    })

    it('stopped in the middle, with a worker frozen: nothing stays behind', async () => {
      const demo = on()
      let told = false // a second signal ends it at once, untidily
      const { exitCode, stderr } = await end(demo, (soFar) => {
        if (!told && soFar.includes('SIGSTOP: cyan')) told = demo.kill('SIGINT')
      })
      expect(exitCode).to.equal(130)
      expect(stderr).to.include('stopped by SIGINT')
      if (ground === postgres) expect(await postgres.connections()).to.equal(0) // no process either
    })

    it('ends with a clear error when the server is not there', async () => {
      const { exitCode, stderr } = await end(start(['--on', ground.name], ground.nowhere))
      expect(exitCode).to.equal(3)
      expect(stderr).to.match(/^\s*lease-demo: the story could not be told: .*ECONNREFUSED/)
    })
  })
}

describe('the demo', function () {
  this.timeout(90_000)
  before(() => postgres.open())
  after(() => postgres.close())

  it('colours on demand only, and never against NO_COLOR', async () => {
    const escape = '\u001B['
    for (const [env, colored] of [
      [{ FORCE_COLOR: '1', NO_COLOR: '' }, true],
      [{ FORCE_COLOR: '1', NO_COLOR: '1' }, false],
      [{ CI: 'true', NO_COLOR: '' }, false],
    ] as const) {
      const demo = start([], { ...postgres.env, ...env })
      let told = false
      const { stdout } = await end(demo, () => {
        if (!told) told = demo.kill('SIGTERM')
      })
      expect(stdout.includes(escape), JSON.stringify(env)).to.equal(colored)
    }
    expect(await postgres.leftovers()).to.deep.equal([])
  })

  it('says how it is used; an option or argument that it does not know is exit code 2', async () => {
    const help = await end(start(['--help']))
    expect(help.exitCode).to.equal(0)
    expect(help.stdout).to.include('Usage: pnpm demo [--on postgres|redis|etcd] [--unguarded]')
    for (const args of [['--ungarded'], ['now'], ['--unguarded=yes'], ['--on', 'mysql'], ['--on=toString'], ['--on']]) {
      const { exitCode, stdout, stderr } = await end(start(args))
      expect(exitCode, args.join(' ')).to.equal(2)
      expect(stderr)
        .to.include('Usage:')
        .and.to.match(/ungarded|now|unguarded|mysql|toString|--on/)
      expect(stdout).to.equal('')
    }
  })

  it('ends with a clear error when the server goes away in the middle', async () => {
    const demo = start([], postgres.env)
    let cut: Promise<void> | undefined
    const { exitCode, stderr } = await end(demo, (soFar) => {
      if (soFar.includes('SIGSTOP: cyan')) cut ??= postgres.close()
    })
    await cut
    expect(exitCode).to.equal(3)
    expect(stderr).to.match(/lease-demo: the story could not be told: worker \w+: /)
  })
})

import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { expect } from 'chai'
import { type FreshDatabase, freshDatabase, postgresTargets } from 'lease-servers'
import { Client } from 'pg'

const [target] = postgresTargets()

interface Ended {
  readonly exitCode: number | null
  readonly stdout: string
  readonly stderr: string
}

describe('the demo', function () {
  this.timeout(90_000)
  let database: FreshDatabase
  before(async () => {
    if (target === undefined) throw new Error('no server to play on')
    database = await freshDatabase(target)
  })
  after(() => database.drop())

  function start(args: readonly string[], env: NodeJS.ProcessEnv = {}): ChildProcess {
    const main = fileURLToPath(new URL('../src/main.ts', import.meta.url))
    return spawn(process.execPath, ['--import', 'tsx', '--conditions', 'lease-source', main, ...args], {
      env: { ...process.env, DATABASE_URL: database.url, ...env },
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

  const run = (...args: string[]): Promise<Ended> => end(start(args))

  async function schemas(): Promise<string[]> {
    const client = new Client({ connectionString: database.url })
    await client.connect()
    try {
      const { rows } = await client.query<{ nspname: string }>(
        `SELECT nspname FROM pg_namespace WHERE nspname LIKE 'lease%'`,
      )
      return rows.map((row) => row.nspname)
    } finally {
      await client.end()
    }
  }

  /** Sessions on the database besides the one that asks; those of killed processes end a moment later. */
  async function connections(): Promise<number> {
    const client = new Client({ connectionString: database.url })
    await client.connect()
    try {
      for (let attempt = 0; ; attempt++) {
        const { rows } = await client.query<{ count: number }>(
          `SELECT count(*)::int AS count FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`,
        )
        const count = rows[0]?.count ?? 0
        if (count === 0 || attempt === 50) return count
        await new Promise((resolve) => setTimeout(resolve, 100))
      }
    } finally {
      await client.end()
    }
  }

  it('with the guard: the stale write is refused, the leases of the frozen and the killed are taken over, the books balance', async () => {
    const { exitCode, stdout, stderr } = await run()
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
    expect(await schemas()).to.deep.equal([])
  })

  it('without the guard: the stale write overwrites a newer one, and the exit code says that the books are broken', async () => {
    const { exitCode, stdout, stderr } = await run('--unguarded')
    expect(stderr).to.equal('')
    expect(exitCode, stdout).to.equal(1)
    expect(stdout).to.match(/cyan +moved 30 from alice to bob on a lapsed lease: OVERWROTE alice = 45/)
    expect(stdout).to.include('✗ the money is not right: it was 400 and is 425: 25 came from nowhere')
    expect(stdout).to.include('✗ an update was lost: alice has 45, its entries say 20')
    expect(stdout).to.include('✗ fencing tokens went back: on alice')
    expect(stdout).to.include('The books DO NOT balance (exit code 1).')
    expect(stdout).not.to.include('REFUSED')
    expect(await schemas()).to.deep.equal([])
  })

  it('stopped in the middle, with a worker frozen: no process and no schema stays behind', async () => {
    const demo = start([])
    let told = false // a second signal ends it at once, untidily
    const { exitCode, stderr } = await end(demo, (soFar) => {
      if (!told && soFar.includes('SIGSTOP: cyan')) told = demo.kill('SIGINT')
    })
    expect(exitCode).to.equal(130)
    expect(stderr).to.include('stopped by SIGINT')
    expect(await schemas()).to.deep.equal([])
    expect(await connections()).to.equal(0)
  })

  it('colours on demand only, and never against NO_COLOR', async () => {
    const escape = '\u001B['
    for (const [env, colored] of [
      [{ FORCE_COLOR: '1', NO_COLOR: '' }, true],
      [{ FORCE_COLOR: '1', NO_COLOR: '1' }, false],
      [{ CI: 'true', NO_COLOR: '' }, false],
    ] as const) {
      const demo = start([], env)
      let told = false
      const { stdout } = await end(demo, () => {
        if (!told) told = demo.kill('SIGTERM')
      })
      expect(stdout.includes(escape), JSON.stringify(env)).to.equal(colored)
    }
    expect(await schemas()).to.deep.equal([])
  })

  it('says how it is used; an option or argument that it does not know is exit code 2', async () => {
    const help = await run('--help')
    expect(help.exitCode).to.equal(0)
    expect(help.stdout).to.include('Usage: pnpm demo [--on postgres')
    for (const args of [['--ungarded'], ['now'], ['--unguarded=yes']]) {
      const { exitCode, stdout, stderr } = await run(...args)
      expect(exitCode, args.join(' ')).to.equal(2)
      expect(stderr)
        .to.include('Usage:')
        .and.to.match(/ungarded|now|unguarded/)
      expect(stdout).to.equal('')
    }
  })

  it('ends with a clear error when the server is not there', async () => {
    const { exitCode, stderr } = await end(start([], { DATABASE_URL: 'postgres://postgres@127.0.0.1:1/postgres' }))
    expect(exitCode).to.equal(3)
    expect(stderr).to.match(/^\s*lease-demo: the story could not be told: .*ECONNREFUSED/)
  })

  it('ends with a clear error when the server goes away in the middle', async () => {
    const demo = start([])
    let cut: Promise<void> | undefined
    const { exitCode, stderr } = await end(demo, (soFar) => {
      if (soFar.includes('SIGSTOP: cyan')) cut ??= database.drop()
    })
    await cut
    expect(exitCode).to.equal(3)
    expect(stderr).to.match(/lease-demo: the story could not be told: worker \w+: /)
  })
})

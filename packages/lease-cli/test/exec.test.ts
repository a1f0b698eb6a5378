import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect } from 'chai'
import { ReadWriteLock, Semaphores } from 'lease-recipes'
import { DateTime } from 'luxon'
import { enoughOf, isMatrix, startEtcd, startPostgres, startRedis, until } from 'lease-servers'
import type { Store } from '#src/store.ts'
import { leaseHere } from './screen.ts'
import { endRuns, isRunning, lease, LeaseRun, unlessStalled } from './lease-run.ts'
import { besides, etcdUrl, testServers, unique, type TestServer } from './stores.ts'

const inMatrix = isMatrix() ? it : it.skip

/** Prints its process id, and then runs until somebody ends it. */
const FOREVER = 'echo "pid $$"; while :; do sleep 0.05; done'
/** The same, and only KILL ends it. */
const STUBBORN = `trap '' TERM INT HUP; ${FOREVER}`

const servers = testServers()
const redis = servers.find(({ name }) => name === 'redis') as TestServer

afterEach(endRuns)

for (const server of enoughOf(servers)) {
  describe(`lease exec on ${server.name}`, () => {
    let env: Record<string, string>
    let store: Store

    before(async () => {
      const url = await server.open()
      const namespace = unique()
      env = { LEASE_URL: url, LEASE_NAMESPACE: namespace }
      store = await besides(url, namespace)
    })
    after(async () => {
      await store.close()
      await server.close()
    })

    /** As a process of its own on one server; on the others in this process, which takes less time. */
    const command = server === redis ? lease : leaseHere

    it('passes on the exit code, gives the command its lease and no URL, and releases the lease', async () => {
      const right = `[ "$LEASE_NAME$LEASE_HELD" = job1 ] && [ "$LEASE_NAMESPACE" = ${env['LEASE_NAMESPACE']} ]`
      const line = `${right} && [ "$LEASE_FENCING_TOKEN" -gt 0 ] && [ -z "$LEASE_URL" ] && exit 3`
      expect((await command(['exec', 'job', '--', 'sh', '-c', line], env)).code).to.equal(3)
      expect(await store.manager.find('job')).to.equal(undefined)
    })

    it('ends with 75 while another holds the lease, and with 0 if the job is to be skipped', async () => {
      const hold = await store.manager.hold('busy', 'other', { duration: { seconds: 60 } })
      const busy = await command(['exec', 'busy', '--', 'false'], env)
      expect(busy.code).to.equal(75)
      expect(busy.stderr).to.contain('busy is held by other')
      expect((await command(['exec', 'busy', '--if-busy', 'skip', '--', 'false'], env)).code).to.equal(0)
      await hold.release()
    })
  })
}

describe('lease exec, when the server does not answer any more', () => {
  const starts = {
    redis: async () => {
      const server = await startRedis()
      return { server, url: server.url }
    },
    postgres: async () => {
      const server = await startPostgres()
      await lease(['migrate'], { LEASE_URL: server.url })
      return { server, url: server.url }
    },
    etcd: async () => {
      const server = await startEtcd()
      return { server, url: etcdUrl(server.endpoints) }
    },
  }
  for (const [name, start] of enoughOf(Object.entries(starts))) {
    it(`ends the command before the lease can lapse, and ends with 124, on ${name}`, async () => {
      await unlessStalled(8_000, async (durationMs) => {
        const { server, url } = await start()
        try {
          const namespace = unique()
          const env = { LEASE_URL: url, LEASE_NAMESPACE: namespace }
          const store = await besides(url, namespace)
          const times = ['--duration', `${durationMs}ms`, '--kill-after', `${(3 / 8) * durationMs}ms`]
          const run = new LeaseRun(['exec', 'job', ...times, '--', 'sh', '-c', FOREVER], env)
          const pid = Number(await run.line(/pid (\d+)/))
          const info = await store.manager.find('job')
          server.pause() // what was granted by now lapses at `info.expiry` or later
          await until('the command is dead', async () => !(await isRunning(pid)))
          const deadAt = DateTime.now()
          if (process.env['LEASE_TEST_FIGURES'] !== undefined) {
            console.log(`      ${name}: dead ${info?.expiry.diff(deadAt).toMillis()} ms before the lease could lapse`)
          }
          expect(deadAt.toMillis()).to.be.below(info?.expiry.toMillis() ?? 0)
          expect(await run.code).to.equal(124)
          expect(run.stderr).to.contain('could not be renewed')
          server.resume()
          await store.close()
        } finally {
          await server.stop()
        }
      })
    })
  }
})

describe('lease exec', () => {
  let env: Record<string, string>
  let store: Store

  beforeEach(async () => {
    const url = await redis.open()
    const namespace = unique()
    env = { LEASE_URL: url, LEASE_NAMESPACE: namespace }
    store = await besides(url, namespace)
  })
  afterEach(() => store.close())

  it('passes TERM on to the whole group, and releases the lease when nobody of it is left', async () => {
    const run = new LeaseRun(['exec', 'job', '--', 'sh', '-c', `sleep 1000 & echo "bg $!"; ${FOREVER}`], env)
    const background = Number(await run.line(/bg (\d+)/))
    const pid = Number(await run.line(/pid (\d+)/))
    run.kill('SIGTERM')
    expect(await run.code).to.equal(128 + 15)
    expect([await isRunning(pid), await isRunning(background)]).to.deep.equal([false, false])
    expect(await store.manager.find('job')).to.equal(undefined)
  })

  it('ends what the command leaves behind before it releases the lease, and says so', async () => {
    const run = new LeaseRun(['exec', 'job', '--', 'sh', '-c', 'sleep 1000 & echo "bg $!"; exit 4'], env)
    const background = Number(await run.line(/bg (\d+)/))
    expect(await run.code).to.equal(4)
    expect(await isRunning(background)).to.equal(false)
    expect(run.stderr).to.contain('left 1 process behind')
  })

  it('kills the command at the second INT', async () => {
    const job = `trap 'echo heard' INT; echo ready; while :; do sleep 0.05; done`
    const run = new LeaseRun(['exec', 'job', '--', 'sh', '-c', job], env)
    await run.line(/ready/)
    run.kill('SIGINT')
    await run.line(/heard/)
    run.kill('SIGINT')
    expect(await run.code).to.equal(128 + 9)
  })

  it('leaves the queue when a signal ends its wait, and ends with 128 and the signal', async () => {
    const hold = await store.manager.hold('job', 'other', { duration: { seconds: 60 } })
    const run = new LeaseRun(['exec', 'job', '--wait', '--verbose', '--', 'echo', 'ran'], env)
    await until('it waits', () => run.stderr.includes('waiting for job, position 1'))
    run.kill('SIGTERM')
    expect(await run.code).to.equal(128 + 15)
    await hold.release()
    expect(run.stdout).to.equal('')
    const next = await store.manager.hold('job', 'next', { duration: { seconds: 60 }, wait: true })
    await next.release()
  })

  it('gives the command its signal when the lease is revoked, runs --on-lost, and ends with 124', async () => {
    const args = ['exec', 'job', '--on-lost', 'echo "lost $LEASE_NAME $LEASE_LOST"', '--', 'sh', '-c', FOREVER]
    const run = new LeaseRun(args, env)
    const pid = Number(await run.line(/pid (\d+)/))
    await store.manager.revoke('job')
    expect(await run.code).to.equal(124)
    expect(await isRunning(pid)).to.equal(false)
    expect(run.stdout).to.contain('lost job revoked')
  })

  inMatrix('lets a command that was revoked finish within the grace', async () => {
    const job = `trap 'sleep 0.2; echo tidied up; exit 0' TERM; echo ready; while :; do sleep 0.05; done`
    const grace = ['--duration', '60s', '--kill-after', '30s'] // so that no slow machine cuts it
    const run = new LeaseRun(['exec', 'job', ...grace, '--', 'sh', '-c', job], env)
    await run.line(/ready/)
    await store.manager.revoke('job')
    expect(await run.code).to.equal(124)
    expect(run.stdout).to.contain('tidied up')
  })

  it('stops a command that takes longer than --max-time', async () => {
    const { code, stderr } = await leaseHere(['exec', 'job', '--max-time', '100ms', '--', 'sleep', '1000'], env)
    expect(code).to.equal(124)
    expect(stderr).to.contain('--max-time')
  })

  it('keeps the lease for --at-least, also if the command ends earlier', async () => {
    const { code } = await leaseHere(['exec', 'job', '--at-least', '1h', '--', 'true'], env)
    expect(code).to.equal(0)
    const info = await store.manager.find('job')
    expect(info?.expiry.toMillis()).to.be.above(DateTime.now().plus({ minutes: 30 }).toMillis())
  })

  it('names a program that is not there, and one that is no program', async () => {
    expect((await leaseHere(['exec', 'job', '--', 'no-such-program'], env)).code).to.equal(127)
    expect((await leaseHere(['exec', 'job', '--', '/etc'], env)).code).to.equal(126)
  })
})

describe('lease exec with', () => {
  let env: Record<string, string>
  let store: Store

  beforeEach(async () => {
    const namespace = unique()
    env = { LEASE_URL: await redis.open(), LEASE_NAMESPACE: namespace }
    store = await besides(env['LEASE_URL'] as string, namespace)
  })
  afterEach(() => store.close())

  /** The exit code of the command, or of lease. */
  const codeOf = async (...args: string[]): Promise<number> => (await leaseHere(['exec', ...args], env)).code

  it('--any takes whichever is free, and the command hears which', async () => {
    await store.manager.claim('slot-1', 'other', { minutes: 1 })
    expect(await codeOf('--any', 'slot-1', 'slot-2', '-c', 'test "$LEASE_NAME" = slot-2')).to.equal(0)
    await store.manager.claim('slot-2', 'other', { minutes: 1 })
    expect(await codeOf('--any', 'slot-1', 'slot-2', '-E', '9', '--', 'true')).to.equal(9)
  })

  it('--permits is one of n, as programs post them; another n is refused', async () => {
    const semaphores = new Semaphores({ manager: store.manager })
    await semaphores.post('job', 'other', { minutes: 1 }, { n: 2 })
    expect(await codeOf('job', '--permits', '2', '-c', 'test "$LEASE_NAME" = job')).to.equal(0)
    expect(await codeOf('job', '--permits', '3', '--', 'true')).to.equal(64)
    const second = await semaphores.post('job', 'another', { minutes: 1 })
    expect(await codeOf('job', '--permits', '2', '--', 'true')).to.equal(75)
    const lease = second.lease
    expect((await leaseHere(['revoke', lease, '--yes'], env)).code).to.equal(0)
    expect(await codeOf('job', '--permits', '2', '--', 'true')).to.equal(0)
    await semaphores.stop()
  })

  it('--shared reads beside other readers, and --exclusive does not', async () => {
    const lock = new ReadWriteLock({ manager: store.manager, name: 'job' })
    const reader = await lock.rlock('other')
    expect(await codeOf('job', '--shared', '--', 'true')).to.equal(0)
    expect(await codeOf('job', '--exclusive', '--', 'true')).to.equal(75)
    await reader.release()
    expect(await codeOf('job', '--exclusive', '--', 'true')).to.equal(0)
    await lock.stop()
  })

  inMatrix('--foreground still passes on the code, and stops the command in time', async () => {
    expect(await codeOf('job', '--foreground', '--', 'sh', '-c', 'exit 6')).to.equal(6)
    expect(await codeOf('job', '--foreground', '--max-time', '50ms', '--', 'sleep', '1000')).to.equal(124)
  })

  it('--value shows text to everyone', async () => {
    const running = leaseHere(
      [
        'exec',
        'job',
        '--value',
        'hello',
        '--max-time',
        '1h',
        '--',
        'sh',
        '-c',
        'while ! test -e "$STOP"; do sleep 0.02; done',
      ],
      { ...env, STOP: stop() },
    )
    const info = await until('it is held', () => store.manager.find('job'))
    expect(info.value).to.equal('hello')
    writeFileSync(stop(), '')
    expect((await running).code).to.equal(0)
    rmSync(stop())
  })

  const stop = (): string => join(tmpdir(), `${env['LEASE_NAMESPACE']}.stop`)
})

describe('the guardian of lease exec', () => {
  let env: Record<string, string>
  let store: Store

  beforeEach(async () => {
    const url = await redis.open()
    const namespace = unique()
    env = { LEASE_URL: url, LEASE_NAMESPACE: namespace }
    store = await besides(url, namespace)
  })
  afterEach(() => store.close())

  /** The parent of the command. */
  const GUARDED = `echo "guardian $PPID"; ${STUBBORN}`

  async function start(
    flags: readonly string[] = [],
    job = GUARDED,
  ): Promise<{ readonly run: LeaseRun; readonly pid: number; readonly guardian: number }> {
    const run = new LeaseRun(['exec', 'job', ...flags, '--', 'sh', '-c', job], env)
    const guardian = Number(await run.line(/guardian (\d+)/))
    return { run, guardian, pid: Number(await run.line(/pid (\d+)/)) }
  }

  async function othersWait(run: LeaseRun, pid: number, signal: NodeJS.Signals): Promise<void> {
    run.kill(signal)
    const next = await store.manager.hold('job', 'next', { duration: { seconds: 60 }, wait: true })
    const runs = await isRunning(pid)
    await next.release()
    expect(runs).to.equal(false)
  }

  it('ends the command before another is granted the lease, after lease exec was killed', async () => {
    await unlessStalled(8_000, async (durationMs) => {
      const { run, pid } = await start(['--duration', `${durationMs}ms`])
      await othersWait(run, pid, 'SIGKILL')
      expect(await run.code).to.equal(128 + 9)
    })
  })

  inMatrix('ends the command before another is granted the lease, after lease exec was stopped', async () => {
    const obedient = `echo "guardian $PPID"; ${FOREVER}`
    await unlessStalled(6_000, async (durationMs) => {
      const times = ['--duration', `${durationMs}ms`, '--kill-after', `${durationMs / 2}ms`]
      const { run, pid } = await start(times, obedient)
      await othersWait(run, pid, 'SIGSTOP')
      run.kill('SIGCONT')
      expect(await run.code).to.equal(124)
    })
  })

  if (isMatrix()) {
    it('kills a command that ignores its signal, after lease exec was stopped', async () => {
      await unlessStalled(8_000, async (durationMs) => {
        const { run, pid } = await start(['--duration', `${durationMs}ms`])
        await othersWait(run, pid, 'SIGSTOP')
        run.kill('SIGCONT')
        expect(await run.code).to.equal(124)
      })
    })
  }

  it('is not outlived by the command: lease exec kills the group, and ends with 125', async () => {
    const { run, pid, guardian } = await start()
    process.kill(guardian, 'SIGKILL')
    expect(await run.code).to.equal(125)
    expect(await isRunning(pid)).to.equal(false)
    expect(await store.manager.find('job')).to.equal(undefined)
  })

  it('ends the wait with 125 if it is killed before the command was started, and leaves the queue', async function () {
    if (!existsSync('/proc/self/stat')) this.skip()
    const hold = await store.manager.hold('job', 'other', { duration: { seconds: 60 } })
    const run = new LeaseRun(['exec', 'job', '--wait', '--verbose', '--', 'echo', 'ran'], env)
    await until('it waits', () => run.stderr.includes('waiting for job, position 1'))
    const children = readFileSync(`/proc/${run.pid}/task/${run.pid}/children`, 'utf8').trim().split(' ').map(Number)
    expect(children).to.have.lengthOf(1)
    process.kill(children[0] as number, 'SIGKILL')
    expect(await run.code).to.equal(125)
    expect(run.stderr).to.contain('the guardian has ended before the command was started')
    expect(run.stdout).to.equal('')
    await hold.release()
    const next = await store.manager.hold('job', 'next', { duration: { seconds: 60 } })
    await next.release()
  })

  it('has no URL, neither as an argument nor in its environment', async function () {
    if (!existsSync('/proc/self/environ')) this.skip()
    const { run, pid, guardian } = await start()
    for (const process of [guardian, pid]) {
      for (const file of ['cmdline', 'environ']) {
        expect(readFileSync(`/proc/${process}/${file}`, 'utf8')).to.not.contain(env['LEASE_URL'])
      }
    }
    run.kill('SIGINT')
    run.kill('SIGKILL')
    await until('the command is dead', async () => !(await isRunning(pid)))
  })
})

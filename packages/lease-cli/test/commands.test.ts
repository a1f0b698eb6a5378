import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect } from 'chai'
import { World } from './screen.ts'

describe('the commands of lease', () => {
  let world: World
  let folder: string

  beforeEach(() => {
    world = new World()
    folder = mkdtempSync(join(tmpdir(), 'lease-cli-'))
  })
  afterEach(() => rmSync(folder, { recursive: true }))

  describe('revoke', () => {
    beforeEach(() => world.manager.claim('job', 'bob', { minutes: 1 }))

    const holderOf = async (lease: string): Promise<string | undefined> => (await world.manager.find(lease))?.holder

    it('asks on a terminal, and takes the lease when its name is typed', async () => {
      const { code, stderr } = await world.lease(['revoke', 'job'], { typed: 'job' })
      expect(code).to.equal(0)
      expect(stderr).to.contain('This takes job from bob (fencing token 1')
      expect(await holderOf('job')).to.equal(undefined)
    })

    it('changes nothing when something else is typed, and ends with 1', async () => {
      expect((await world.lease(['revoke', 'job'], { typed: 'y' })).code).to.equal(1)
      expect(await holderOf('job')).to.equal('bob')
    })

    it('refuses where nobody can be asked, unless --yes is given', async () => {
      const { code, stderr } = await world.lease(['revoke', 'job'])
      expect(code).to.equal(64)
      expect(stderr).to.contain('give --yes')
      expect(await holderOf('job')).to.equal('bob')
    })

    it('refuses a term that is over, and another holder', async () => {
      await world.manager.release('job', 'bob')
      await world.manager.claim('job', 'carl', { minutes: 1 })
      const stale = await world.lease(['revoke', 'job', '--token', '1', '--yes'])
      expect(stale).to.include({ code: 1, stdout: '' })
      expect(stale.stderr).to.contain('is held by carl with fencing token 2, not 1: that term is over')
      expect((await world.lease(['revoke', 'job', '--holder', 'bob', '--yes'])).code).to.equal(1)
      expect(await holderOf('job')).to.equal('carl')
      expect((await world.lease(['revoke', 'job', '--token', '2', '--holder', 'carl', '--yes'])).code).to.equal(0)
      expect(await holderOf('job')).to.equal(undefined)
    })

    it('does not take the next term, if the lease changes hands while somebody is asked', async () => {
      const running = world.start(['revoke', 'job'], { typed: 'job' })
      Object.assign(running.io, {
        ask: async () => {
          await world.manager.release('job', 'bob')
          await world.manager.claim('job', 'carl', { minutes: 1 })
          return 'job'
        },
      })
      const { code, stderr } = await running.done
      expect(code).to.equal(1)
      expect(stderr).to.contain('the term 1 of bob was over already; nothing was changed')
      expect(await holderOf('job')).to.equal('carl')
    })

    it('takes all leases of a holder, after its name was typed', async () => {
      await world.manager.claim('other', 'bob', { minutes: 1 })
      await world.manager.claim('third', 'carl', { minutes: 1 })
      expect((await world.lease(['revoke', '--all-of', 'bob'], { typed: 'bob' })).code).to.equal(0)
      expect([await holderOf('job'), await holderOf('other'), await holderOf('third')]).to.deep.equal([
        undefined,
        undefined,
        'carl',
      ])
    })

    it('only says what would happen, with --dry-run', async () => {
      const { code, stdout } = await world.lease(['revoke', 'job', '--dry-run'])
      expect(code).to.equal(0)
      expect(stdout).to.contain('would revoke job from bob')
      expect(await holderOf('job')).to.equal('bob')
    })

    it('says that a vacant lease cannot be taken', async () => {
      const { code, stderr } = await world.lease(['revoke', 'nothing', '--yes'])
      expect(code).to.equal(1)
      expect(stderr).to.contain('nobody holds nothing')
    })
  })

  describe('LEASE_READ_ONLY', () => {
    for (const args of [
      ['revoke', 'job', '--yes'],
      ['pin', 'job', 'ops'],
      ['unpin', 'job', 'ops'],
      ['exec', 'job', '--', 'true'],
      ['acquire', 'job', '--token-file', 'f', '--pin'],
      ['collect'],
      ['console', '--write'],
    ]) {
      it(`refuses ${args[0]} with 77`, async () => {
        const { code, stderr } = await world.lease(args, { env: { LEASE_READ_ONLY: '1' }, cwd: folder })
        expect(code).to.equal(77)
        expect(stderr).to.contain('LEASE_READ_ONLY is set')
      })
    }

    it('lets one look', async () => {
      expect((await world.lease(['list'], { env: { LEASE_READ_ONLY: '1' } })).code).to.equal(0)
    })
  })

  describe('pin and unpin', () => {
    it('keep a lease from lapsing, and let it lapse again', async () => {
      await world.manager.claim('job', 'bob', { minutes: 1 })
      const pinned = await world.lease(['pin', 'job', 'ops'])
      expect(pinned.stdout).to.equal('pinned job for ops by ann@desk (held by bob, fencing token 1; pinned by ops)\n')
      await world.clock.advance(120_000)
      expect((await world.lease(['list'])).stdout).to.match(/^job +bob +2m +overdue +ops/m)
      const unpinned = await world.lease(['unpin', 'job', 'ops', '--json'])
      expect(JSON.parse(unpinned.stdout)).to.include({
        change: 'unpin',
        lease: 'job',
        entity: 'ops',
        by: 'ann@desk',
        changed: true,
      })
      expect((await world.lease(['show', 'job'])).code).to.equal(1)
    })
  })

  describe('acquire and release', () => {
    const file = (): string => join(folder, 'token')

    it('hold a lease from one command to the other', async () => {
      const acquired = await world.lease(
        ['acquire', 'job', '--token-file', file(), '--duration', '2h', '--holder', 'ci'],
        { cwd: folder },
      )
      expect(acquired.stdout).to.equal('acquired job as ci, fencing token 1, for 2h\n')
      expect(statSync(file()).mode & 0o777).to.equal(0o600)
      expect(JSON.parse(readFileSync(file(), 'utf8'))).to.deep.equal({
        lease: 'job',
        holder: 'ci',
        fencingToken: '1',
        namespace: 'x',
      })
      expect((await world.lease(['acquire', 'job', '--token-file', `${file()}2`, '--duration', '2h'])).code).to.equal(
        75,
      )
      expect((await world.lease(['release', file()])).stdout).to.equal('released job of ci, fencing token 1\n')
      expect(await world.manager.find('job')).to.equal(undefined)
      expect(() => statSync(file())).to.throw('ENOENT')
    })

    it('with --pin hold it however long that takes', async () => {
      await world.lease(['acquire', 'job', '--token-file', file(), '--pin', '--holder', 'ci'])
      await world.clock.advance(86_400_000)
      expect((await world.manager.find('job'))?.holder).to.equal('ci')
      expect((await world.lease(['release', file()])).code).to.equal(0)
      expect(await world.manager.find('job')).to.equal(undefined)
      expect(await world.manager.pinned()).to.have.property('size', 0)
    })

    it('with --pin end with 75 when the lease was lost before it was pinned, and pin no term of another', async () => {
      world.beforePin = async () => {
        await world.clock.pause(61_000)
        await world.manager.claim('job', 'bob', { minutes: 1 })
      }
      const { code, stdout, stderr } = await world.lease(['acquire', 'job', '--token-file', file(), '--pin'])
      expect({ code, stdout }).to.deep.equal({ code: 75, stdout: '' })
      expect(stderr).to.contain('job was lost before it was pinned')
      expect((await world.manager.find('job'))?.holder).to.equal('bob')
      expect(await world.manager.pinned()).to.have.property('size', 0)
      expect(() => statSync(file())).to.throw('ENOENT')
    })

    it('with --pin hold a term that is pinned in time, also when its process stands still', async () => {
      await world.manager.pin('job', 'ops')
      world.beforePin = () => world.clock.pause(61_000)
      expect((await world.lease(['acquire', 'job', '--token-file', file(), '--pin', '--holder', 'ci'])).code).to.equal(
        0,
      )
      await world.manager.unpin('job', 'ops')
      expect((await world.manager.find('job'))?.holder).to.equal('ci')
    })

    it('end no later term: 1, and it says who holds the lease now', async () => {
      await world.lease(['acquire', 'job', '--token-file', file(), '--duration', '1m', '--holder', 'ci'])
      await world.clock.advance(61_000)
      await world.manager.claim('job', 'bob', { minutes: 1 })
      const { code, stderr } = await world.lease(['release', file()])
      expect(code).to.equal(1)
      expect(stderr).to.contain('was over already (bob holds it')
      expect((await world.manager.find('job'))?.holder).to.equal('bob')
    })

    it('refuse a lease that nobody renews without a duration, and a file that is there', async () => {
      expect((await world.lease(['acquire', 'job', '--token-file', file()])).code).to.equal(64)
      writeFileSync(file(), 'precious')
      const { code, stderr } = await world.lease(['acquire', 'job', '--token-file', file(), '--pin'])
      expect(code).to.equal(64)
      expect(stderr).to.contain('is there already')
      expect(readFileSync(file(), 'utf8')).to.equal('precious')
      expect((await world.lease(['release', file()])).stderr).to.contain('is no token file')
    })
  })

  describe('wait', () => {
    it('ends when nobody holds the lease', async () => {
      await world.manager.claim('job', 'bob', { minutes: 1 })
      const waiting = world.start(['wait', 'job'])
      await world.clock.untilSleeping()
      await world.manager.release('job', 'bob')
      expect((await waiting.done).code).to.equal(0)
    })

    it('ends with 75 after --timeout, and with 128 and the number of a signal', async () => {
      await world.manager.claim('job', 'bob', { minutes: 1 })
      const waiting = world.start(['wait', 'job', '--timeout', '10s'])
      await world.clock.untilSleeping()
      await world.clock.advance(10_000)
      expect((await waiting.done).code).to.equal(75)
      const stopped = world.start(['wait', 'job'])
      await world.clock.untilSleeping()
      stopped.signal('SIGTERM')
      expect((await stopped.done).code).to.equal(143)
    })
  })

  describe('list', () => {
    beforeEach(async () => {
      await world.manager.claim('old', 'bob', { hours: 2 })
      await world.clock.advance(3_600_000)
      await world.manager.claim('new', 'carl', { seconds: 10 })
      await world.manager.claim('kept', 'bob', { minutes: 5 })
      await world.manager.pin('kept', 'ops')
    })

    for (const [flags, found] of [
      [[], ['kept', 'new', 'old']],
      [['*e*'], ['kept', 'new']],
      [['n?w'], ['new']],
      [['.*'], []],
      [
        ['--held-by', 'bob'],
        ['kept', 'old'],
      ],
      [['--expiring', '1m'], ['new']],
      [['--older-than', '30m'], ['old']],
      [['--pinned'], ['kept']],
      [
        ['--sort', 'since'],
        ['old', 'kept', 'new'],
      ],
      [
        ['--sort', 'expires'],
        ['new', 'kept', 'old'],
      ],
      [
        ['--sort', 'token'],
        ['old', 'new', 'kept'],
      ],
      [['--limit', '1'], ['kept']],
    ] as const) {
      it(`${flags.join(' ') || 'without flags'} finds ${found.join(', ') || 'nothing'}`, async () => {
        const { stdout } = await world.lease(['list', '--json', ...flags])
        expect((JSON.parse(stdout) as { lease: string }[]).map(({ lease }) => lease)).to.deep.equal(found)
      })
    }

    it('--watch --json writes a line for each change', async () => {
      const watching = world.start(['list', '--watch', '--json', 'n*'])
      await world.clock.untilSleeping()
      await world.manager.release('new', 'carl')
      await world.clock.advance(2_000)
      watching.signal('SIGINT')
      const { code, stdout } = await watching.done
      expect(code).to.equal(130)
      const lines = stdout
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line) as { change: string; lease: string })
      expect(lines.map(({ change, lease }) => `${change} ${lease}`)).to.deep.equal(['held new', 'vacant new'])
    })
  })

  describe('completion', () => {
    it('completes commands, flags, and names of leases', async () => {
      await world.manager.claim('account-1', 'bob', { minutes: 1 })
      expect((await world.lease(['__complete', 're'])).stdout).to.equal('release\nrevoke\n')
      expect((await world.lease(['__complete', 'revoke', 'acc'])).stdout).to.equal('account-1\n')
      expect((await world.lease(['__complete', 'revoke', '--all'])).stdout).to.equal('--all-of\n')
      expect((await world.lease(['__complete', 'exec', 'job', '--', 'acc'])).stdout).to.equal('')
    })

    for (const shell of ['bash', 'zsh', 'fish']) {
      it(`has a script for ${shell}`, async () => {
        expect((await world.lease(['completion', shell])).stdout).to.contain('lease __complete')
      })
    }
  })
})

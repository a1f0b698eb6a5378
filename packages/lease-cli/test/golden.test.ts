import { expect } from 'chai'
import { World, type ScreenOptions } from './screen.ts'

/**
 * What the command prints, letter by letter, about leases in memory at a time that stands still. The expiry is the latest instant at which
 * the lease may be valid, so it has the margin of an observer: 0.1 % and a millisecond.
 */
describe('what lease prints', () => {
  let world: World

  beforeEach(async () => {
    world = new World()
    await world.manager.claim(
      'nightly',
      'web3-4711-9f86d081884c7d65',
      { hours: 1 },
      { value: 'http://10.0.0.7:8080/status?verbose=1' },
    )
    await world.clock.advance(90_000)
    await world.manager.claim('account-42', 'billing-1', { seconds: 30 })
    await world.manager.pin('maintenance', 'ops')
    await world.manager.claim('maintenance', 'ann', { minutes: 5 })
    await world.clock.advance(5_000)
  })

  const pipe = `LEASE        HOLDER                      SINCE  EXPIRES-IN  PINNED  TOKEN  VALUE
account-42   billing-1                      5s         25s  -           2
maintenance  ann                            5s       4m55s  ops         3
nightly      web3-4711-9f86d081884c7d65  1m35s      58m28s  -           1  http://10.0.0.7:8080/status?verbose=1
`

  it('in a pipe: a table without colour, in which nothing is cut', async () => {
    expect(await world.lease(['list'])).to.deep.equal({ code: 0, stdout: pipe, stderr: '' })
  })

  it('on a terminal: with colour, and as wide as it is', async () => {
    const { stdout } = await world.lease(['list'], { isTTY: true, columns: 120 })
    expect(stdout).to.equal(pipe.replace(/^(.*)\n/, '\u001B[1m$1\u001B[22m\n'))
  })

  it('on a terminal of 80 columns: values and holders are cut first', async () => {
    const { stdout } = await world.lease(['list'], { isTTY: true, columns: 80, env: { NO_COLOR: '1' } })
    expect(stdout).to.equal(`LEASE        HOLDER                     SINCE  EXPIRES-IN  PINNED  TOKEN  VALUE
account-42   billing-1                     5s         25s  -           2
maintenance  ann                           5s       4m55s  ops         3
nightly      web3-4711-9f86d081884c7d…  1m35s      58m28s  -           1  http:…
`)
    for (const line of stdout.split('\n')) expect(line.length).to.be.at.most(80)
  })

  for (const [title, options] of [
    ['NO_COLOR', { isTTY: true, columns: 120, env: { NO_COLOR: '1' } }],
    ['--color never', { isTTY: true, columns: 120, env: { FORCE_COLOR: '1' } }],
    ['TERM=dumb', { isTTY: true, columns: 120, env: { TERM: 'dumb' } }],
  ] as const satisfies readonly (readonly [string, ScreenOptions])[]) {
    it(`with ${title}: no colour`, async () => {
      const flags = title.startsWith('--') ? title.split(' ') : []
      expect((await world.lease(['list', ...flags], options)).stdout).to.equal(pipe)
    })
  }

  it('with FORCE_COLOR or --color always: colour also in a pipe', async () => {
    const colored = pipe.replace(/^(.*)\n/, '\u001B[1m$1\u001B[22m\n')
    expect((await world.lease(['list'], { env: { FORCE_COLOR: '1' } })).stdout).to.equal(colored)
    expect((await world.lease(['list', '--color', 'always'], { env: { NO_COLOR: '1' } })).stdout).to.equal(colored)
  })

  it('with --json: one array, one line for each lease', async () => {
    const { stdout } = await world.lease(['list', '--json', 'account-*'])
    expect(stdout).to.equal(`[
{"lease":"account-42","holder":"billing-1","since":"2024-01-01T00:01:30.000Z","expiry":"2024-01-01T00:02:00.026Z","expiresInMs":25026,"pinned":false,"pins":[],"fencingToken":"2","value":null}
]
`)
    expect((await world.lease(['list', '--json', 'nothing'])).stdout).to.equal('[]\n')
  })

  it('of one lease: every field', async () => {
    expect(await world.lease(['show', 'maintenance'])).to.deep.equal({
      code: 0,
      stdout: `lease          maintenance
holder         ann
since          2024-01-01T00:01:30Z (5s ago)
expires        2024-01-01T00:06:30Z (4m55s), but a pin keeps it
pinned by      ops
fencing token  3
value          none
`,
      stderr: '',
    })
  })

  it('of a vacant lease: that nobody holds it, and 1', async () => {
    expect(await world.lease(['show', 'x'])).to.deep.equal({ code: 1, stdout: '', stderr: 'nobody holds x\n' })
    expect(await world.lease(['show', 'x', '--json'])).to.include({
      code: 1,
      stdout: '{"lease":"x","holder":null,"pinned":false,"pins":[]}\n',
    })
  })

  it('of a counted lease: its permits', async () => {
    await world.manager.hold('printers', 'bob', { duration: { minutes: 1 }, share: { capacity: 3, weight: 2 } })
    expect((await world.lease(['show', 'printers'])).stdout).to.equal(`lease    printers
permits  2 of 3 taken
  share  bob: 2, expires in 1m, fencing token 4
`)
  })

  it('of what is pinned', async () => {
    expect((await world.lease(['pins'])).stdout).to.equal('LEASE        ENTITY  HOLDER\nmaintenance  ops     ann\n')
  })

  it('of changes: a line for each, with its time', async () => {
    const watching = world.start(['watch', 'account-42', '--until', 'free'])
    await world.clock.untilSleeping()
    await world.manager.release('account-42', 'billing-1')
    expect((await watching.done).stdout).to.equal(
      `2024-01-01T00:01:35Z account-42 held by billing-1, fencing token 2
2024-01-01T00:01:35Z account-42 vacant
`,
    )
  })

  it('of help: what becomes of a reason', async () => {
    const { stdout } = await world.lease(['help', 'revoke'])
    expect(stdout.replaceAll(/\s+/g, ' ')).to.contain(
      '--reason <text> printed with what was done, for your log; the store',
    )
  })

  it('of a revocation: whose term, by whom, and what its former holder may still do', async () => {
    const printed = await world.lease(['revoke', 'account-42', '--yes', '--reason', 'it is dead'])
    expect(printed).to.deep.equal({
      code: 0,
      stdout: `revoked account-42 from billing-1 (fencing token 2, held for 5s) by ann@desk: it is dead
  until it hears of it, its holder may rely on the lease for up to 25s, until 2024-01-01T00:02:00Z; guards and fencing tokens refuse it from now on
`,
      stderr: '',
    })
  })

  it('of a value that would move the cursor: signs in its place', async () => {
    await world.manager.claim('evil', 'eve', { minutes: 1 }, { value: 'a\u001B[2Jb\nc' })
    const { stdout } = await world.lease(['list', 'evil'])
    expect(stdout).to.contain('a�[2Jb c')
    expect(stdout).to.not.contain('\u001B')
  })
})

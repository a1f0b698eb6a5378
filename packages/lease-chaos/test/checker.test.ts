import { expect } from 'chai'
import {
  crowds,
  misorderedShares,
  misreportedWrites,
  repeatedRuns,
  staleWrites,
  trustConflicts,
  windowsIn,
  type Report,
  type StoreEvent,
  type Window,
} from 'lease-chaos'

/** What two workers record that hold a lease in turn, and another lease beside it. */
const history: Readonly<Record<string, readonly Report[]>> = {
  p1: [
    relied('lease', 7n, 100),
    relied('lease', 7n, 150),
    relied('other', 8n, 120),
    relied('other', 8n, 260),
    relied('lease', 12n, 300),
    relied('lease', 12n, 310),
  ],
  p2: [relied('lease', 9n, 200), relied('lease', 9n, 250)],
}

function relied(lease: string, token: bigint, atMs: number): Report {
  return { what: 'relied', lease, token: String(token), atMs }
}

/** The history with one of its reports changed. */
function changed(name: string, index: number, change: Partial<Report>): typeof history {
  const reports =
    history[name]?.map((report, at) => (at === index ? { ...report, ...change } : report)) ?? expect.fail()
  return { ...history, [name]: reports }
}

function conflictsIn(reports: typeof history): string[] {
  return trustConflicts(windowsIn(Object.entries(reports).map(([name, all]) => ({ name, reports: all }))))
}

describe('the checker of trust', () => {
  it('finds nothing in a history in which all was right', () => {
    expect(conflictsIn(history)).to.deep.equal([])
  })

  it('finds a worker that relied on its term for too long', () => {
    expect(conflictsIn(changed('p1', 1, { atMs: 201 }))).to.deep.equal(['lease: p2 while p1 did, for 1.0 ms'])
  })

  it('finds a worker that relied on its term too early', () => {
    expect(conflictsIn(changed('p1', 4, { atMs: 249 }))).to.deep.equal(['lease: p1 while p2 did, for 1.0 ms'])
  })

  it('finds a term that lasted over several others', () => {
    const reports = changed('p1', 1, { atMs: 305 })
    expect(conflictsIn(reports)).to.deep.equal([
      'lease: p2 while p1 did, for 105.0 ms',
      'lease: p1 while p1 did, for 5.0 ms',
    ])
  })

  it('finds a fencing token that is not higher than the one before', () => {
    for (const token of ['7', '6']) {
      const swapped = { ...history, p2: history['p2']?.map((report) => ({ ...report, token })) ?? [] }
      expect(conflictsIn(swapped)).to.deep.equal([`lease: token ${token} after 7`])
    }
  })

  it('compares no leases with each other, and no instants that only touch', () => {
    expect(conflictsIn(changed('p1', 1, { atMs: 200 }))).to.deep.equal([])
    expect(conflictsIn(changed('p1', 3, { atMs: 1000 }))).to.deep.equal([])
  })
})

describe('the checker of crowds', () => {
  const windows = windowsIn(Object.entries(history).map(([name, reports]) => ({ name, reports })))

  it('finds the instants at which too many relied on something, and no others', () => {
    expect(crowds(windows, 2)).to.deep.equal([])
    expect(crowds(windows, 1)).to.deep.equal(['2 at 120', '2 at 200'])
  })
})

describe('the checker of shares', () => {
  /** What three workers rely on, of a counted lease of capacity 50. */
  const shares: readonly Window[] = [
    share({ token: '3', weight: 20, askedMs: 0, fromMs: 10, toMs: 100 }),
    share({ token: '4', weight: 30, askedMs: 5, fromMs: 12, toMs: 60 }),
    share({ token: '7', weight: 30, askedMs: 11, fromMs: 61, toMs: 90 }),
    share({ token: '8', weight: 50, askedMs: 20, fromMs: 101, toMs: 120 }),
    share({ token: '12', weight: 1, askedMs: 110, fromMs: 130, toMs: 140 }),
  ]

  function share(window: Pick<Window, 'token' | 'weight' | 'fromMs' | 'toMs'> & { askedMs: number }): Window {
    return { name: `p${window.token}`, lease: 'counted', ...window }
  }

  function changed(index: number, change: Partial<Window>): readonly Window[] {
    return shares.map((one, at) => (at === index ? { ...one, ...change } : one))
  }

  it('finds nothing in a history in which all was right', () => {
    expect(crowds(shares, 50)).to.deep.equal([])
    expect(misorderedShares(shares, 50)).to.deep.equal([])
  })

  it('finds the instants at which the weights were more than the capacity', () => {
    expect(crowds(changed(1, { toMs: 62 }), 50)).to.deep.equal(['80 at 61'])
    expect(crowds(changed(0, { toMs: 102 }), 50)).to.deep.equal(['70 at 101'])
    expect(crowds(changed(0, { weight: 21 }), 50)).to.deep.equal(['51 at 12', '51 at 61'])
    expect(crowds(changed(4, { fromMs: 119 }), 50)).to.deep.equal(['51 at 119'])
  })

  it('finds a token that is not above that of a share which it cannot have overlapped', () => {
    expect(misorderedShares(changed(2, { token: '2' }), 50)).to.deep.equal([
      'token 2 after 3', // it was asked for when that one was relied on
      'token 2 after 4',
    ])
    expect(misorderedShares(changed(3, { token: '6' }), 50)).to.deep.equal(['token 6 after 7'])
  })

  it('finds a token that is not above that of a share which was relied on when this one was asked for', () => {
    expect(misorderedShares(changed(4, { token: '7', askedMs: 62, fromMs: 63 }), 49)).to.include('token 7 after 7')
    const late = share({ token: '5', weight: 1, askedMs: 62, fromMs: 63, toMs: 64 })
    expect(misorderedShares([...shares, late], 60)).to.deep.equal(['token 5 after 7'])
  })

  it('finds two shares with one token', () => {
    const twin = share({ token: '3', weight: 1, askedMs: 0, fromMs: 11, toMs: 13 })
    expect(misorderedShares([...shares, twin], 60)).to.deep.equal(['6 shares with 5 tokens'])
  })

  it('accepts tokens in any order where neither share is known to be the earlier one', () => {
    const swapped = [
      share({ token: '4', weight: 20, askedMs: 0, fromMs: 10, toMs: 15 }),
      share({ token: '3', weight: 30, askedMs: 5, fromMs: 20, toMs: 60 }),
    ]
    expect(misorderedShares(swapped, 50)).to.deep.equal([])
    expect(misorderedShares(swapped, 49)).to.deep.equal(['token 3 after 4'])
  })
})

describe('the checker of runs', () => {
  const begun = (token: string, slot: string, askedMs: number): Report => ({
    what: 'begun',
    lease: 'job',
    token,
    detail: slot,
    askedMs,
    atMs: askedMs + 5,
  })
  const done = (token: string, atMs: number): Report => ({ what: 'done', lease: 'job', token, atMs })
  const runs: readonly Report[] = [
    begun('3', '12:00', 0),
    done('3', 40),
    begun('9', '12:02', 80),
    begun('7', '12:01', 30),
  ]

  it('finds nothing in a history in which all was right', () => {
    expect(repeatedRuns(runs, { retry: false })).to.deep.equal([])
    expect(repeatedRuns([...runs, { ...begun('1', '12:02', 0), lease: 'other' }], { retry: false })).to.deep.equal([])
  })

  it('finds a slot that ran twice, and one that ran after a later one', () => {
    expect(repeatedRuns([...runs, begun('10', '12:02', 90)], { retry: false })).to.deep.equal([
      'job: slot 12:02 after 12:02',
    ])
    for (const retry of [true, false]) {
      expect(repeatedRuns([...runs, begun('10', '12:01', 90)], { retry })).to.deep.equal([
        'job: slot 12:01 after 12:02',
      ])
    }
  })

  it('accepts, with retry, a slot that runs again, unless its run was done when the next one was asked for', () => {
    const again = [...runs, begun('4', '12:00', 30), begun('10', '12:02', 90)]
    expect(repeatedRuns(again, { retry: true })).to.deep.equal([])
    expect(repeatedRuns([...runs, begun('4', '12:00', 41)], { retry: true })).to.deep.equal([
      'job: slot 12:00 after 12:00',
    ])
  })
})

describe('the checker of writes', () => {
  const event = (what: StoreEvent['what'], token: bigint, over?: bigint): StoreEvent => ({
    what,
    lease: 'lease',
    token,
    ...(over !== undefined && { over }),
  })
  const log = [
    event('grant', 1n),
    event('write', 1n, 0n),
    event('grant', 4n),
    event('write', 4n, 1n),
    event('write', 4n, 4n),
  ]

  it('finds nothing in a log in which all was right', () => {
    expect(staleWrites(log)).to.deep.equal([])
  })

  it('finds a write that came after a newer grant, or after a newer write', () => {
    const [first, write, ...rest] = log as [StoreEvent, StoreEvent, ...StoreEvent[]]
    expect(staleWrites([first, rest[0] as StoreEvent, write])).to.deep.equal(['lease: a write with token 1 after 4'])
    expect(staleWrites([first, rest[1] as StoreEvent, write])).to.deep.equal(['lease: a write with token 1 after 4'])
  })

  it('finds a write over a newer one, where the store knows only that', () => {
    expect(staleWrites([event('write', 3n, 5n)])).to.deep.equal(['lease: a write with token 3 after 5'])
  })

  it('does not compare leases with each other', () => {
    expect(staleWrites([{ ...event('grant', 9n), lease: 'other' }, ...log])).to.deep.equal([])
  })

  it('finds a write that is lost, and one that was refused and done', () => {
    const told = (what: string, token: string): Report => ({ what, lease: 'lease', token, atMs: 0 })
    expect(misreportedWrites(log, [told('written', '4'), told('refused', '2'), told('granted', '3')])).to.deep.equal([])
    expect(misreportedWrites(log, [told('written', '2')])).to.deep.equal(['lease: the write with token 2 was written'])
    expect(misreportedWrites(log, [told('refused', '4')])).to.deep.equal(['lease: the write with token 4 was refused'])
  })
})

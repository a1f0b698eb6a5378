/** What a process knows of the room behind a gate: never more than there is. */
import { expect } from 'chai'
import { KnownGates, type Gate } from '#src/gates.ts'

const gate: Gate = { capacity: 10, generation: 'g', byUse: false, heaviest: 3, weight: 9, first: undefined }

/** Knows 9 at the revision 20, behind the gate of the revision 15. */
function known(): KnownGates {
  const gates = new KnownGates()
  gates.learn('n#', { gate, version: '15', weight: 9, asOf: 20 })
  return gates
}
const gone = (fencingToken: bigint, revision: number) => ({ weight: 2, fencingToken, revision: String(revision) })

describe('the weight that is known of a counted lease', () => {
  it('is less by a share that has gone since', () => {
    const gates = known()
    gates.gone('n#', gone(12n, 21))
    expect(gates.get('n#')).to.include({ weight: 7 })
  })

  it('is less by a share once, however often that is heard', () => {
    const gates = known()
    for (let times = 1; times <= 3; times++) gates.gone('n#', gone(12n, 21))
    expect(gates.get('n#')).to.include({ weight: 7 })
    gates.gone('n#', gone(13n, 22))
    expect(gates.get('n#')).to.include({ weight: 5 })
  })

  it('is the same where the share had gone before, or has come since', () => {
    const gates = known()
    gates.gone('n#', gone(12n, 20))
    gates.gone('n#', gone(16n, 21))
    gates.gone('m#', gone(12n, 21))
    expect(gates.get('n#')).to.include({ weight: 9 })
    expect(gates.get('m#')).to.equal(undefined)
  })

  it('is not taken from an answer that is older', () => {
    const gates = known()
    gates.learn('n#', { gate, version: '14', weight: 1, asOf: 19 })
    expect(gates.get('n#')).to.include({ version: '15', weight: 9 })
    gates.learn('n#', { gate, version: '21', weight: 4, asOf: 21 })
    expect(gates.get('n#')).to.include({ version: '21', weight: 4 })
  })

  it('is remembered of the ten thousand counted leases that were learned of last', () => {
    const gates = known()
    for (let index = 0; index < 10_000; index++) {
      gates.learn(`${index}#`, { gate, version: '15', weight: 9, asOf: 20 })
    }
    expect([gates.get('n#'), gates.get('0#')?.weight]).to.deep.equal([undefined, 9])
  })
})

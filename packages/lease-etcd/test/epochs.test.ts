/** What a client knows of its epoch key. */
import { expect } from 'chai'
import { Epochs } from '#src/epochs.ts'
import { Layout } from '#src/layout.ts'

describe('what is known of the epoch key', () => {
  it('is not taken from an answer that is older', () => {
    const epochs = new Epochs('client', new Layout('lease/', 'ns'))
    const raise = (epoch: number) =>
      epochs.check({ level: epochs.levelFor(epoch, undefined), etcdLease: '7', once: false })
    const [earlier, later] = [raise(1), raise(2)]
    expect([earlier.raises, later.raises]).to.deep.equal([true, true])
    epochs.executed(later, '21')
    epochs.executed(earlier, '20') // its answer comes last
    const next = raise(2)
    expect([next.first, next.raises], 'the key has the level of the later one').to.deep.equal([false, false])
    expect(() => epochs.levelFor(1, undefined)).to.throw('a later request')
  })
})

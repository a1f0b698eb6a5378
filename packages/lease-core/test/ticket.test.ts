import { expect } from 'chai'
import { INTEREST_MS, LONGEST_REST_MS, noTicket, PASS_OVER_MS, TOLD, untilTurnMs } from '#src/ticket.ts'

describe('untilTurnMs', () => {
  it('is a slot for each waiter ahead, of three claims within bounds, and bounded', () => {
    const delays = [0, 1, 2, 12, 13, 1_000, Number.POSITIVE_INFINITY].map((ahead) => untilTurnMs({ ahead }, 10))
    expect(delays).to.deep.equal([0, 30, 60, 360, 360, 360, 360])
    expect([untilTurnMs({ ahead: 1 }, 0), untilTurnMs({ ahead: 1 }, 5_000)]).to.deep.equal([20, 100])
  })

  it('lets the one that stands in claim before both are passed over, however slow claims are', () => {
    expect(untilTurnMs({ ahead: TOLD - 1 }, Number.POSITIVE_INFINITY)).to.be.lessThan(PASS_OVER_MS)
  })
})

describe('tickets', () => {
  it('the longest pause between two looks renews an interest twice before it lapses', () => {
    expect(2 * LONGEST_REST_MS).to.be.lessThan(INTEREST_MS)
  })

  it('a waiter that is not in the queue has a ticket of its own to write on', () => {
    expect(noTicket()).to.deep.equal({ place: 0, ahead: 0, isFull: false })
    expect(noTicket()).not.to.equal(noTicket())
  })
})

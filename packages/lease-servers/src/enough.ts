/** How much of a race is enough: the test command runs as much as finds a defect, the matrix five times as much. */
export function enough(count: number): number {
  return process.env['LEASE_SUITE'] === 'matrix' ? count * 5 : count
}

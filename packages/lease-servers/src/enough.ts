/** How long a race lasts: the test command runs as much of it as finds a defect; the matrix runs ten times as much. */
export function enough(count: number): number {
  return process.env['LEASE_SUITE'] === 'matrix' ? count * 10 : count
}
